"""A text tower that goes on from where another run left it, as when only the image side has changed.

Architecture, tokenizer and backbone are the other run's. Its head belongs to the space it was tuned to: it is kept
where the new images are of that space, together with the loss's scale and bias, and drawn anew where they are not.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import tyro

from schemas.manifest import ImagesManifest
from trainer import parameters
from trainer.config import DataConfig, LossConfig, TrainConfig
from trainer.run_directory import LoadedRun, is_run, load_run, local_run
from trainer.text_towers import Head, TextTower, TextTowerConfig, check_sizes, new_head, rebuild_text_tower
from trainer.text_towers.family import Start
from trainer.text_towers.initial import generator

# How the tower is trained from here on, rather than what it is.
_FREE = ("text_dropout", "compute_dtype", "text_head")
# Flags that a checkpoint may have left unsaid, and where the run's architecture says them.
_SIZES = {
    "text_width": "width",
    "text_depth": "depth",
    "text_heads": "heads",
    "text_mlp": "mlp",
    "text_pool": "pool",
}


@dataclass(frozen=True)
class WarmStart:
    """A tower before its first step, from another run.

    Attributes:
        tower: with the run's backbone, and its head or a new one.
        config: the new run's, whose loss begins at the run's scale and bias where the head was kept.
        step: of the checkpoint it was read from.
        digest: of the head it begins with, and of where that is from; the backbone has its own.
    """

    tower: TextTower
    config: TrainConfig
    step: int
    digest: str


def with_tower_of(run: str, config: TrainConfig | None = None) -> TrainConfig:
    """A configuration to start from another run: its text tower, its row length, all else as it was.

    Args:
        run: a folder made by lit-train.
        config: a preset; the defaults unless given, whose store and output are asked for on the command line.

    Raises:
        ValueError: the folder is no run.
    """
    if config is None:
        config = TrainConfig(data=DataConfig(store=tyro.MISSING), output=tyro.MISSING)
    text, architecture = _text_of(run)
    ours = {name: getattr(config.text, name) for name in _FREE}
    length = architecture["max_text_length"]
    return dataclasses.replace(
        config,
        init=run,
        text=dataclasses.replace(text, **ours),
        data=dataclasses.replace(config.data, max_text_length=length),
    )


def warm_start(config: TrainConfig, images: ImagesManifest) -> WarmStart:
    """Read the text tower of `config.init` and fit it to the new images.

    Args:
        config: with `init`.
        images: of the embeddings to train on.

    Raises:
        ValueError: `init` is no run or has no checkpoint, the flags speak of another tower, or the sizes do not fit.
    """
    assert config.init is not None
    _refuse_another_tower(config, _text_of(config.init)[0])
    run = load_run(config.init)
    old, length = run.text_tower, config.data.max_text_length
    check_sizes(Start(old.backbone, old.params["backbone"], old.tokenizer), length)
    head = _head(config, run, images)
    architecture = {
        **old.architecture,
        "backbone": {
            **old.architecture["backbone"],
            "dropout": config.text.text_dropout,
            "compute_dtype": config.text.compute_dtype,
        },
        "head": {"origin": head.origin, "leaves": sorted(head.params)},
        "out_dim": images.embedding_dim,
        "max_text_length": length,
    }
    params = jax.tree.map(np.asarray, {"backbone": old.params["backbone"], "head": head.params})
    tower = rebuild_text_tower(architecture, params, old.tokenizer)
    if head.origin == "run":
        config = dataclasses.replace(config, loss=_loss_of(config.loss, run))
    return WarmStart(tower, config, run.step, parameters.digest(params["head"], head.origin))


def _text_of(run: str) -> tuple[TextTowerConfig, Mapping[str, Any]]:
    """The flags that mean a run's text tower, its sizes spelled out, and its architecture."""
    path = local_run(run)
    if not is_run(path):
        raise ValueError(f"init: must be a folder made by lit-train, found no config.json in {run}.")
    config = TrainConfig.from_json((path / "config.json").read_text(encoding="utf-8"))
    architecture = json.loads((path / "text_tower.json").read_text(encoding="utf-8"))
    backbone = architecture["backbone"]
    sizes = {flag: backbone[name] for flag, name in _SIZES.items() if name in backbone}
    if "mask_pads" in backbone:
        sizes["text_attend_pads"] = not backbone["mask_pads"]
    return dataclasses.replace(config.text, **sizes), architecture


def _refuse_another_tower(config: TrainConfig, theirs: TextTowerConfig) -> None:
    differing = [
        f"{name}: the run has {old!r}, found {new!r}"
        for name, new in dataclasses.asdict(config.text).items()
        if name not in _FREE and new != (old := getattr(theirs, name))
    ]
    if differing:
        raise ValueError(
            f"init: the text tower must be that of {config.init}, found differences in {'; '.join(differing)}. "
            "Leave these flags out, or --init."
        )


def _head(config: TrainConfig, run: LoadedRun, images: ImagesManifest) -> Head:
    """The run's head where it is of the images' space or asked for, else a new one."""
    tower, wanted, out_dim = run.text_tower, config.text.text_head, images.embedding_dim
    fits = tower.out_dim == out_dim
    if wanted == "checkpoint" and not fits:
        raise ValueError(
            f"text_head: the run's must give the store's {out_dim} dimensions, found one of {tower.out_dim}. "
            "Set --text-head new."
        )
    if wanted == "checkpoint" or (wanted == "auto" and fits and run.space_id == images.space_id):
        head = Head(tower.params["head"], "run")
    else:
        random = generator(jax.random.key(config.seed)).spawn(2)[1]  # as of a tower that starts without a run
        head = new_head(tower.feature_dim, out_dim, random)
    return head


def _loss_of(loss: LossConfig, run: LoadedRun) -> LossConfig:
    """The loss, going on from the run's scale and bias where it is of the same kind and no flag says otherwise."""
    if run.config["loss"]["loss"] != loss.loss:
        return loss
    went_on = {"logit_scale_init": math.exp(run.log_scale)}
    if run.bias is not None:
        went_on["logit_bias_init"] = run.bias
    usual = LossConfig()
    unsaid: dict[str, Any] = {
        name: value for name, value in went_on.items() if getattr(loss, name) == getattr(usual, name)
    }
    return dataclasses.replace(loss, **unsaid)
