"""Why a run may not be learning, from what was measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

NEAR_CHANCE = 0.98  # of the loss of a tower that knows nothing
SMALLEST_BATCH = 8  # below which chance is no rare thing


@dataclass(frozen=True)
class BatchFacts:
    """What the pairs of a batch, or of a part of it, have in common.

    Attributes:
        pairs: looked at.
        duplicates: share of them that have another pair with the same image or the same caption.
        captions: distinct ones.
        entropy: of the captions in nats, at most ln pairs; its exponential is the number of captions that, drawn
            equally often, would be as diverse.
    """

    pairs: int
    duplicates: float
    captions: int
    entropy: float


def facts_of(image_keys: np.ndarray, caption_keys: np.ndarray) -> BatchFacts:
    """Measure the pairs of a batch.

    Args:
        image_keys: uint32 [B, 2].
        caption_keys: uint32 [B, 2], or [B, K, 2] of which the first is looked at.
    """
    captions = caption_keys if caption_keys.ndim == 2 else caption_keys[:, 0]
    repeated = np.zeros(len(image_keys), bool)
    for keys in (image_keys, captions):
        _, place, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        repeated |= count[place.reshape(-1)] > 1
    share = count / count.sum()  # of each distinct caption
    entropy = float(-(share * np.log(share)).sum())
    return BatchFacts(len(captions), float(repeated.mean()), len(count), entropy)


def chance_loss(kind: str, batch_size: int) -> float:
    """The least loss of a tower whose logits do not depend on the pair.

    Softmax: ln B. Sigmoid, at the bias -ln(B - 1): ln B + (B - 1) ln(B / (B - 1)), about ln B + 1.
    """
    size = float(batch_size)
    if kind == "softmax":
        return math.log(size)
    return math.log(size) + (size - 1) * math.log(size / (size - 1))


def sits_at_chance(kind: str, batch_size: int, metrics: Mapping[str, float]) -> str | None:
    """In words how a logged step looks like chance; None where it does not.

    Args:
        kind: of the loss.
        batch_size: B.
        metrics: of the step: loss, i2t_r1, t2i_r1.
    """
    if batch_size < SMALLEST_BATCH:
        return None
    chance = chance_loss(kind, batch_size)
    if metrics["loss"] >= NEAR_CHANCE * chance:
        name = "ln B" if kind == "softmax" else "ln B + 1"
        return f"loss {metrics['loss']:.3f} is that of guessing ({name} = {chance:.3f})"
    recall = max(metrics["i2t_r1"], metrics["t2i_r1"])
    if recall <= 2 / batch_size:  # NaN where it was not measured
        return f"batch recall@1 {recall:.2%} is that of guessing (1 in {batch_size:,})"
    return None


def likely_causes(
    facts: BatchFacts, metrics: Mapping[str, float], duplicates: str, peak_rate: float
) -> list[str]:
    """What the measured facts point to, the likeliest first.

    Args:
        facts: of the batch.
        metrics: of the step: logit_scale, grad_norm, lr.
        duplicates: how the loss treats them.
        peak_rate: the schedule's peak learning rate.
    """
    causes = []
    if facts.duplicates > 0.1:
        advice = " --duplicates mask leaves them out" if duplicates == "ignore" else ""
        causes.append(
            f"{facts.duplicates:.0%} of the pairs share image or caption with another of the batch"
            + (f", and count as wrong answers:{advice}" if advice else "")
        )
    diverse = math.exp(facts.entropy)
    if diverse < facts.pairs / 4:
        causes.append(
            f"captions say little: {facts.captions:,} distinct ones in {facts.pairs:,} pairs (entropy"
            f" {facts.entropy:.2f} of {math.log(facts.pairs):.2f} nats, as diverse as {diverse:,.0f}); take a smaller"
            " --batch-size or better captions"
        )
    scale, rate, norm = metrics["logit_scale"], metrics["lr"], metrics["grad_norm"]
    if scale < 3:
        causes.append(
            f"the logit scale fell to {scale:.2f}: pairs look unrelated, or the learning rate is too high"
        )
    if scale > 100:
        causes.append(f"the logit scale rose to {scale:.0f}: --max-log-scale 4.6052 keeps it at 100")
    if rate < peak_rate / 100:
        causes.append(f"the learning rate is {rate:.1e}, a small part of its peak {peak_rate:.1e}")
    elif rate >= 2e-3:
        causes.append(
            f"the learning rate {rate:.1e} may be too high: try --learning-rate {peak_rate / 10:.0e}"
        )
    elif rate < 1e-5:
        causes.append(
            f"the learning rate {rate:.1e} may be too low: try --learning-rate {peak_rate * 10:.0e}"
        )
    if norm < 1e-4:
        causes.append(f"the gradient is all but zero ({norm:.1e})")
    return causes or [
        f"duplicates ({facts.duplicates:.0%}), captions (entropy {facts.entropy:.2f} of {math.log(facts.pairs):.2f}"
        f" nats), scale ({scale:.1f}) and learning rate ({rate:.1e}) look usual: do the captions belong to these"
        " images, and does the checkpoint belong to this tower?"
    ]
