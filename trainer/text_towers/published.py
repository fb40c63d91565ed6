"""The text half of a published dual encoder, with its scale and bias, as its file has it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from schemas.storage import StorageOptions
from trainer.text_towers import Head, assemble, check_sizes
from trainer.text_towers.bert_reference import MARK
from trainer.text_towers.checkpoint import TextCheckpoint, read_text_checkpoint
from trainer.text_towers.config import TextTowerConfig
from trainer.text_towers.families import TEXT_TOWERS
from trainer.text_towers.family import Order
from trainer.text_towers.initial import generator
from trainer.text_towers.tower import TextTower

LIT_LENGTH = 16  # tokens a caption has in every published LiT model; BERT's files do not say
_IMAGE_HEADS = {"img/head/kernel", "visual_projection.weight"}
_OF_FOLDER = {
    "clip": "clip",
    "clip_text_model": "clip",
    "siglip": "siglip",
    "siglip2": "siglip",
    "siglip_text_model": "siglip",
    "siglip2_text_model": "siglip",
}


class PublishedText(NamedTuple):
    """A text tower whose embeddings lie in its image tower's space.

    Attributes:
        tower: with the published head, or none where there is none.
        log_scale: logarithm of the factor on the cosines; 0 where the file has none.
        bias: what is added to them; None where the file has none.
        source: bare name of the file or folder.
        sha256: of the weights, as an image tower of the same file or folder has it.
        has_image_head: whether images are projected too before the loss.
    """

    tower: TextTower
    log_scale: float
    bias: float | None
    source: str
    sha256: str
    has_image_head: bool


def load_text_side(
    path: str,
    *,
    tokenizer: str | None = None,
    max_text_length: int | None = None,
    text_heads: int | None = None,
    compute_dtype: str = "float32",
    options: StorageOptions | None = None,
) -> PublishedText:
    """The text half of a dual encoder as its authors publish it.

    Args:
        path: Hugging Face folder or `hf://org/model` of CLIP, SigLIP or SigLIP 2; or the reference's npz of two towers
            (LiT, SigLIP) or of CLIPPO's one. Any fsspec path.
        tokenizer: as `--text-tokenizer`; needed where the file has none with it.
        max_text_length: tokens a row; None for what the tower was made for (16 for a BERT of LiT).
        text_heads: attention heads of a BERT in the reference's layout; None for one to every 64 of width.
        compute_dtype: "float32" or "bfloat16".
        options: fsspec options by protocol.

    Returns:
        The tower, log scale and bias. logits = exp(log_scale) * images @ texts.T + bias, of unit vectors.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is no dual encoder known here, or its tensors do not fit: all are named at once.
    """
    checkpoint = read_text_checkpoint(path, options)
    name = family_of(checkpoint)
    config = TextTowerConfig(
        text_tower=name,
        text_checkpoint=path,
        text_tokenizer=tokenizer,
        text_heads=text_heads,
        compute_dtype="bfloat16" if compute_dtype == "bfloat16" else "float32",
    )
    order = Order(config, checkpoint, max_text_length, generator(jax.random.key(0)), None)
    start = TEXT_TOWERS[name].start(order)
    if start.head is None:
        raise ValueError(
            f"{checkpoint.source}: must be a dual encoder or one's text half, found a text model that was never "
            "trained beside an image tower. Tune it with lit-train --text-checkpoint."
        )
    length = max_text_length or (LIT_LENGTH if name == "bert" else start.backbone.config.max_length)
    check_sizes(start, length)
    kernel = start.head.get("kernel")
    out_dim = start.backbone.config.width if kernel is None else kernel.shape[1]
    tower = assemble(name, start, Head(start.head, "checkpoint"), out_dim, length)
    scale, bias = _scale_and_bias(checkpoint.tensors, checkpoint.source)
    has_image_head = not _IMAGE_HEADS.isdisjoint(checkpoint.tensors)
    return PublishedText(tower, scale, bias, checkpoint.source, checkpoint.sha256, has_image_head)


def family_of(checkpoint: TextCheckpoint) -> str:
    """The family a dual encoder's text half belongs to, told by its contents.

    Raises:
        ValueError: none that is known here.
    """
    if checkpoint.config is not None:
        kind = checkpoint.config.get("model_type")
        if kind in _OF_FOLDER:
            return _OF_FOLDER[kind]
        raise ValueError(
            f"{checkpoint.source}/config.json: model_type of a dual encoder must be one of {', '.join(_OF_FOLDER)}, "
            f"found {kind!r}."
        )
    if (
        not checkpoint.is_two_tower
        and "img/MAPHead_0/probe" in checkpoint.tensors
        and "t" in checkpoint.tensors
    ):
        return "clippo"
    names = checkpoint.text_tensors() if checkpoint.is_two_tower else {}
    if any(name.startswith(MARK) for name in names):
        return "bert"
    if "Embed_0/embedding" in names:
        return "siglip"
    raise ValueError(
        f"{checkpoint.source}: a file of two towers must hold a BERT (txt/{MARK}…) or a text transformer "
        f"(txt/Embed_0/…), found {', '.join(sorted(checkpoint.tensors)[:4])}, …"
    )


def _scale_and_bias(tensors: Mapping[str, np.ndarray], source: str) -> tuple[float, float | None]:
    """Log scale and bias, each of one number under one of its two names."""
    values: dict[str, Any] = {}
    for ours, names in {"scale": ("t", "logit_scale"), "bias": ("b", "logit_bias")}.items():
        found = [np.asarray(tensors[name], np.float32) for name in names if name in tensors]
        if found and found[0].size != 1:
            raise ValueError(f"{source}: {' or '.join(names)} must be one number, found {found[0].shape}.")
        values[ours] = float(found[0].reshape(())) if found else None
    scale = values["scale"]
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"{source}: the logarithm of the scale must be finite, found {scale}.")
    return 0.0 if scale is None else scale, values["bias"]
