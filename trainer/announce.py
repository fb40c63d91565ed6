"""What a training run tells its user, before the first step and after the last."""

from typing import Any

from schemas.store import ImagesFolder
from trainer import parameters
from trainer.config import TrainConfig
from trainer.data.columns import Columns
from trainer.data.sampler import Sampler
from trainer.step_plan import batch_warning
from trainer.text_towers import TextTower


def what_is_trained(
    config: TrainConfig, images: ImagesFolder, columns: Columns, sampler: Sampler, tower: TextTower
) -> None:
    """Print, before the first step, the data, the schedule and the tower, with a warning where one is due."""
    without, usable = columns.facts["without_caption"], columns.facts["images"]
    lines = [f"images: {sampler.num_rows:,} to train on, {images.manifest.embedding_dim} dimensions each"]
    if usable > sampler.num_rows:
        lines.append(
            f"held out: {usable - sampler.num_rows:,} images"
            f" (a fraction of {config.data.holdout_fraction} by {config.data.holdout_by})"
        )
    if without:
        lines.append(f"left out: {without:,} images without a usable caption")
    lines.append(
        f"steps: {config.steps:,} of {config.batch_size:,} pairs,"
        f" {config.steps / sampler.steps_per_epoch:,.1f} epochs of {sampler.steps_per_epoch:,} steps"
    )
    if sampler.remainder:
        lines.append(
            f"each epoch leaves out the last {sampler.remainder:,} images of its order: no batch spans two"
        )
    trained = tower.params["head"] if config.text.freeze_backbone else tower.params
    what = "a new head on a frozen backbone" if config.text.freeze_backbone else "backbone and head"
    lines.append(f"text tower: {tower.name}, {what}, {parameters.count(trained):,} parameters to train")
    if (warning := batch_warning(config.batch_size, config.steps, sampler.num_rows)) is not None:
        lines.append(warning)
    print("\n".join(lines), flush=True)


def what_came_of_it(config: TrainConfig, images: ImagesFolder, summary: dict[str, Any]) -> None:
    """Print, after the last step, how it ended and what to do next."""
    print(
        f"done: {summary['steps']:,} steps, {summary['samples_seen']:,} pairs in {summary['seconds']:.1f} s;"
        f" last loss {summary['loss']:.4f}\n"
        f"run: {config.output}\n"
        f"next: lit-eval retrieval --run {config.output} --store {config.data.store}"
        f" --tower-id {images.manifest.tower_id} --output retrieval.json"
    )
