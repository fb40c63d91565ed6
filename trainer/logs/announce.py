"""What a training run tells its user, before the first step and after the last."""

from collections.abc import Iterator, Sequence
from typing import Any

from trainer import parameters
from trainer.config import TrainConfig
from trainer.data.mixture import Mixture
from trainer.data.sampler import Sampler
from trainer.data.spools import Spool
from trainer.step_plan import batch_warning
from trainer.text_towers import TextTower

_HEADS = {"checkpoint": "the checkpoint's head", "run": "that run's head", "new": "a new head"}


def what_is_trained(config: TrainConfig, spools: Sequence[Spool], mixture: Mixture, tower: TextTower) -> None:
    """Print, before the first step, the data, the schedule and the tower, with a warning where one is due."""
    lines = [f"images: {mixture.num_rows:,} to train on, {tower.out_dim} dimensions each"]
    for spool, sampler in zip(spools, mixture.samplers, strict=True):
        found = list(_of_one_store(config, spool, sampler))
        lines += found if len(spools) == 1 else [f"{spool.name}:", *(f"  {line}" for line in found)]
    trained = tower.params["head"] if config.head_alone else tower.params
    head = _HEADS[tower.architecture["head"]["origin"]]
    what = f"{head} on a frozen backbone" if config.head_alone else f"backbone and {head}"
    lines.append(f"text tower: {tower.name}, {what}, {parameters.count(trained):,} parameters to train")
    if (warning := batch_warning(config.batch_size, config.steps, round(mixture.effective_rows))) is not None:
        lines.append(warning)
    print("\n".join(lines), flush=True)


def _of_one_store(config: TrainConfig, spool: Spool, sampler: Sampler) -> Iterator[str]:
    """What is taken of a store, and what is not."""
    facts, rows = spool.images.facts, sampler.num_rows
    if sampler.batch_size != config.batch_size:
        yield f"{sampler.batch_size:,} of each batch, out of {rows:,} images"
    if facts["without_caption"]:
        yield f"left out: {facts['without_caption']:,} images without a usable caption"
    if facts["images"] > rows:
        kept_out = facts["images"] - rows
        if config.data.caption_kinds or config.data.caption_langs:
            yield f"left out: {kept_out:,} images, held out or without a caption of the kinds and languages asked for"
        else:
            hold_out = f"a fraction of {config.data.holdout_fraction} by {config.data.holdout_by}"
            yield f"held out: {kept_out:,} images ({hold_out})"
    if len(spool.captions.groups) > 1:
        counts = ", ".join(f"{name} {count:,}" for name, count in spool.captions.images_with.items())
        yield f"images with a caption of each kind: {counts}; one without shows its next kind"
    yield (
        f"steps: {config.steps:,} of {sampler.batch_size:,} pairs,"
        f" {config.steps / sampler.steps_per_epoch:,.1f} epochs of {sampler.steps_per_epoch:,} steps"
    )
    if sampler.remainder:
        yield f"each epoch leaves out the last {sampler.remainder:,} images of its order: no batch spans two"


def what_came_of_it(config: TrainConfig, tower_id: str, summary: dict[str, Any]) -> None:
    """Print, after the last step, how it ended and what to do next."""
    print(
        f"done: {summary['steps']:,} steps, {summary['samples_seen']:,} pairs in {summary['seconds']:.1f} s;"
        f" last loss {summary['loss']:.4f}\n"
        f"run: {config.output}\n"
        f"next: lit-eval retrieval --run {config.output} --store {config.data.store[0]}"
        f" --tower-id {tower_id} --output retrieval.json"
    )
