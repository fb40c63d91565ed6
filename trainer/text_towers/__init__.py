"""Building a text tower by its name, and building it again from what a run keeps."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from trainer.text_towers.checkpoint import read_text_checkpoint
from trainer.text_towers.config import TextTowerConfig
from trainer.text_towers.families import TEXT_TOWERS
from trainer.text_towers.family import Order, Start, Texts
from trainer.text_towers.fitting import refuse_misfits
from trainer.text_towers.initial import generator, lecun_normal
from trainer.text_towers.torch_layout import parameter_shapes
from trainer.text_towers.tower import Params, TextTower
from trainer.tokenizers import Tokenizer

__all__ = [
    "TEXT_TOWERS",
    "Head",
    "TextTower",
    "TextTowerConfig",
    "build_text_tower",
    "check_sizes",
    "new_head",
    "rebuild_text_tower",
]


def build_text_tower(
    config: TextTowerConfig,
    out_dim: int,
    key: jax.Array,
    tokenizer_texts: Texts | None,
    max_text_length: int,
) -> TextTower:
    """A tower at the start of its training.

    Args:
        config: which one, and from what.
        out_dim: D, the dimension of the store's embeddings.
        key: seed of a new head, and of the backbone where it starts from scratch.
        tokenizer_texts: gives the captions a vocabulary is learned from; only called where one is.
        max_text_length: L, tokens a row.

    Returns:
        The tower with NumPy parameters; a new head's kernel is drawn (lecun_normal) and never zero.

    Raises:
        ValueError: the checkpoint does not hold such a tower, or the sizes do not fit.
    """
    config.check_untrained()
    checkpoint = None if config.text_checkpoint is None else read_text_checkpoint(config.text_checkpoint)
    backbone_random, head_random = generator(key).spawn(2)
    order = Order(config, checkpoint, max_text_length, backbone_random, tokenizer_texts)
    start = TEXT_TOWERS[config.text_tower].start(order)
    check_sizes(start, max_text_length)
    head = _head(config, start, out_dim, head_random)
    return assemble(config.text_tower, start, head, out_dim, max_text_length)


class Head(NamedTuple):
    """The last projection, and where it is from: "new", "checkpoint", or "run" (`trainer.warm_start`)."""

    params: dict[str, np.ndarray]
    origin: str


def assemble(name: str, start: Start, head: Head, out_dim: int, max_text_length: int) -> TextTower:
    """The tower of a start and a head."""
    architecture = {
        "tower": name,
        "backbone": json.loads(json.dumps(dataclasses.asdict(start.backbone.config))),
        "head": {"origin": head.origin, "leaves": sorted(head.params)},
        "layout": dict(start.layout or {}),
        "out_dim": out_dim,
        "max_text_length": max_text_length,
    }
    params: dict[str, Params] = {"backbone": start.params, "head": dict(head.params)}
    return TextTower(name, architecture, params, start.tokenizer, start.backbone)


def rebuild_text_tower(
    architecture: Mapping[str, Any], params: dict[str, Params], tokenizer: Tokenizer
) -> TextTower:
    """A tower from what a run keeps; the checkpoint it once started from is not needed.

    Args:
        architecture: `TextTower.architecture`, perhaps read back from JSON.
        params: arrays, or their shapes and dtypes where values come later.
        tokenizer: the run's own.

    Raises:
        ValueError: an unknown tower, or params or a tokenizer that are not of this architecture.
    """
    name = architecture.get("tower")
    if name not in TEXT_TOWERS:
        raise ValueError(f"text tower: must be one of {sorted(TEXT_TOWERS)}, found {name!r}.")
    backbone = TEXT_TOWERS[name].remake(architecture["backbone"])
    shapes = parameter_shapes(backbone, architecture["max_text_length"])
    wanted = {"/".join(("backbone", *path)): shape for path, shape in shapes.items()}
    width, out_dim = architecture["backbone"]["width"], architecture["out_dim"]
    head = {"kernel": (width, out_dim), "bias": (out_dim,)}
    wanted |= {f"head/{leaf}": head[leaf] for leaf in architecture["head"]["leaves"]}
    refuse_misfits(flatten_dict(params, sep="/"), wanted, f"text tower {name}")
    if tokenizer.pad_id != architecture["backbone"]["pad_id"]:
        raise ValueError(
            f"tokenizer: must pad with id {architecture['backbone']['pad_id']}, found {tokenizer.pad_id}. "
            "Take the tokenizer from the same run as the parameters."
        )
    return TextTower(name, dict(architecture), params, tokenizer, backbone)


def check_sizes(start: Start, length: int) -> None:
    """Raises ValueError where the tokenizer or the row length does not fit the backbone."""
    config = start.backbone.config
    if start.tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"tokenizer: its ids must fit the {config.vocab_size} embeddings of the checkpoint, found "
            f"{start.tokenizer.vocab_size} of them. Take both from one checkpoint."
        )
    longest = config.max_length
    if longest is not None and (length > longest or (config.fixed_length and length != longest)):
        bound = f"exactly {longest}, no attention mask having been there in training" * config.fixed_length
        raise ValueError(
            f"max_text_length: this text tower's rows must hold {bound or f'at most {longest}'}, found {length}. "
            f"Set --max-text-length {longest}."
        )


def _head(config: TextTowerConfig, start: Start, out_dim: int, random: np.random.Generator) -> Head:
    """The checkpoint's head if it is wanted and fits, or a new one."""
    width = start.backbone.config.width
    own = start.head
    gives = None if own is None else own["kernel"].shape[1] if "kernel" in own else width
    if config.text_head == "checkpoint" and gives != out_dim:
        found = "a checkpoint without a head" if own is None else f"one of {gives}"
        raise ValueError(
            f"text_head: the checkpoint's must give the store's {out_dim} dimensions, found {found}. "
            "Set --text-head new."
        )
    if config.text_head != "new" and own is not None and gives == out_dim:
        return Head(own, "checkpoint")
    return new_head(width, out_dim, random)


def new_head(width: int, out_dim: int, random: np.random.Generator) -> Head:
    """A head that knows nothing: float32 kernel [width, out_dim], drawn (lecun_normal) and never zero, bias 0."""
    kernel = lecun_normal(random, width, out_dim)
    return Head({"kernel": kernel, "bias": np.zeros(out_dim, np.float32)}, "new")
