"""Zero-shot classification: which class's prompts lie nearest to an image."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.evals.vectors import NORM_EPSILON, check_finite

DEFINITION = (
    "Each class embedding is the mean of its prompts' unit embeddings ({ordering}); an image's prediction is the "
    "class of highest cosine, the lowest index among equals. top1: the prediction is one of the image's labels. "
    "top5: one of its labels is among the five highest classes. mean_per_class: the mean of top1 over the classes "
    "that have images; an image of several labels counts once in each. Images without a label are left out."
)


@dataclass(frozen=True)
class Judged:
    """What zero-shot classification said about N images.

    Attributes:
        predicted: int32 [N], the nearest class.
        rank: int32 [N], how many classes come before the best placed label; 0 is a hit at 1.
        labels: int32 [N, W], true classes, padded with -1.
    """

    predicted: np.ndarray
    rank: np.ndarray
    labels: np.ndarray


def average_prompts(
    prompt_embeddings: np.ndarray, class_index: np.ndarray, n_classes: int, renormalize: bool = True
) -> np.ndarray:
    """Means the prompt embeddings of each class.

    w_c = mean of z_p over the prompts p of class c; then w_c / (‖w_c‖ + 1e-8) if renormalize. Both orders are
    published: LiT's evaluator renormalises, its notebook does not.

    Args:
        prompt_embeddings: float32 [P, D], unit rows.
        class_index: int [P], the class each prompt speaks of.
        n_classes: C.
        renormalize: whether the mean is scaled to length one.

    Returns:
        float32 [C, D].

    Raises:
        ValueError: if a class has no prompt.
    """
    counts = np.bincount(class_index, minlength=n_classes)
    if (counts == 0).any():
        raise ValueError(
            f"every class must have a prompt; none for classes {np.flatnonzero(counts == 0)[:5].tolist()}"
        )
    order = np.argsort(class_index, kind="stable")
    sums = np.add.reduceat(prompt_embeddings[order], np.cumsum(counts) - counts, axis=0)
    means = sums / counts[:, None].astype(np.float32)
    if not renormalize:
        return means
    return means / (np.linalg.norm(means, axis=1, keepdims=True) + np.float32(NORM_EPSILON))


def classify(
    image_embeddings: np.ndarray, class_embeddings: np.ndarray, labels: np.ndarray, block: int = 2048
) -> Judged:
    """Ranks the classes for each image, a block of images at a time.

    Args:
        image_embeddings: float32 [N, D], unit rows.
        class_embeddings: float32 [C, D].
        labels: int [N, W], each in 0..C-1, at least one a row, padded with -1.
        block: images compared at once; memory is O(block · C).

    Raises:
        ValueError: if embeddings are not finite or labels are out of range.
    """
    check_finite(class_embeddings, "class embeddings")
    check_finite(image_embeddings, "image embeddings")
    check_labels(labels, len(class_embeddings))
    # Classes of the same prompts get the very same scores, so that the tie between them has one outcome.
    distinct, place = np.unique(class_embeddings, axis=0, return_inverse=True)
    predicted = np.zeros(len(labels), dtype=np.int32)
    rank = np.zeros(len(labels), dtype=np.int32)
    for start in range(0, len(labels), block):
        rows = slice(start, start + block)
        scores = (image_embeddings[rows] @ distinct.T)[:, place]  # [b, D] @ [D, C'] -> [b, C]
        predicted[rows] = scores.argmax(axis=1)
        rank[rows] = _rank_of_best_label(scores, labels[rows])
    return Judged(predicted, rank, np.asarray(labels, dtype=np.int32))


def merge(parts: Sequence[Judged]) -> Judged:
    """Joins what was said about several lots of images; labels are padded to the widest."""
    width = max([1, *(part.labels.shape[1] for part in parts)])
    padded = [
        np.pad(part.labels, ((0, 0), (0, width - part.labels.shape[1])), constant_values=-1) for part in parts
    ]
    empty = np.zeros(0, dtype=np.int32)
    return Judged(
        np.concatenate([empty, *(part.predicted for part in parts)]),
        np.concatenate([empty, *(part.rank for part in parts)]),
        np.concatenate([empty.reshape(0, width), *padded]),
    )


def summarize(judged: Judged, names: Sequence[str], n_confusions: int = 20) -> dict[str, Any]:
    """Turns judgements into the report's figures: fractions, per class, and the commonest confusions."""
    hit = judged.rank == 0
    totals, hits = _per_class_counts(judged, hit, len(names))
    seen = totals > 0
    return {
        "top1": float(hit.mean()),
        "top5": float((judged.rank < 5).mean()),
        "mean_per_class": float((hits[seen] / totals[seen]).mean()),
        "mean_per_class_error": _error_of_mean(hits[seen] / totals[seen], totals[seen]),
        "n": len(hit),
        "n_classes": len(names),
        "n_classes_with_images": int(seen.sum()),
        "per_class": [
            {"class_index": int(c), "name": names[c], "n": int(totals[c]), "top1": float(hits[c] / totals[c])}
            for c in np.flatnonzero(seen).tolist()
        ],
        "confusions": _confusions(judged, hit, names, n_confusions),
    }


def check_labels(labels: np.ndarray, n_classes: int) -> None:
    """Raises ValueError unless each row of labels [N, W] holds a class and nothing else but padding (-1)."""
    out_of_range = np.unique(labels[(labels < -1) | (labels >= n_classes)])
    if len(out_of_range):
        raise ValueError(
            f"labels must be class indices 0..{n_classes - 1}; found {out_of_range[:5].tolist()}. "
            "Give the class list that the store's labels index."
        )
    if not (labels >= 0).any(axis=1).all():
        raise ValueError("every image must have a label here; leave the others out first")


def _rank_of_best_label(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before an image's best label in a stable sort of scores [b, C], highest first."""
    own = np.where(labels >= 0, np.take_along_axis(scores, np.maximum(labels, 0), axis=1), -np.inf)  # [b, W]
    best_score = own.max(axis=1, keepdims=True)
    n_classes = scores.shape[1]
    best_label = np.where(own == best_score, labels, n_classes).min(axis=1, keepdims=True)
    equal_and_first = (scores == best_score) & (np.arange(n_classes) < best_label)
    return np.count_nonzero((scores > best_score) | equal_and_first, axis=1)


def _per_class_counts(judged: Judged, hit: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and hits of each class, int [C] each."""
    is_label = judged.labels >= 0
    hit_per_label = np.broadcast_to(hit[:, None], judged.labels.shape)
    totals = np.bincount(judged.labels[is_label], minlength=n_classes)
    return totals, np.bincount(judged.labels[is_label & hit_per_label], minlength=n_classes)


def _error_of_mean(accuracy: np.ndarray, n: np.ndarray) -> float:
    """Standard error of the mean over classes: √(Σ_c p_c (1 - p_c) / n_c) / C, the classes being fixed."""
    return float(np.sqrt((accuracy * (1 - accuracy) / n).sum()) / len(accuracy))


def _confusions(judged: Judged, hit: np.ndarray, names: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """The commonest (first label, wrong prediction) pairs; equal counts in class order."""
    first_label = judged.labels[np.arange(len(hit)), (judged.labels >= 0).argmax(axis=1)]
    pairs = Counter(zip(first_label[~hit].tolist(), judged.predicted[~hit].tolist(), strict=True))
    commonest = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:limit]
    return [
        {
            "label": label,
            "predicted": predicted,
            "name": names[label],
            "predicted_name": names[predicted],
            "n": n,
        }
        for (label, predicted), n in commonest
    ]
