"""The text half of the reference's two-tower file, written so that what was read from one is the same bit by bit."""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from trainer import parameters
from trainer.text_towers.bert import Bert
from trainer.text_towers.bert_reference import REFERENCE, reference_tensors
from trainer.text_towers.siglip import STACKED
from trainer.text_towers.tower import TextTower
from trainer.text_towers.transformer import Transformer

_BERT_FORM = ("activation", "pool", "pads_inside", "norm_eps", "position_rule")


def text_leaves(tower: TextTower, log_scale: float, bias: float | None) -> dict[str, np.ndarray]:
    """`txt/…`, `t` [1] and, where there is a bias, `b` [1].

    Blocks are stacked where the file the tower came from had them stacked, and leaves are bfloat16 again where they
    were, as long as no value is lost by it. A head that is not there is not made up.

    Args:
        tower: a transformer that looks at its padding, or a BERT in the reference's form.
        log_scale: the scale's logarithm.
        bias: of the sigmoid loss, or None.

    Raises:
        ValueError: the reference has no network that computes what this tower does.
    """
    refuse_other_forms(tower)
    backbone, layout = tower.params["backbone"], tower.architecture["layout"]
    flat = reference_tensors(backbone) if isinstance(tower.backbone, Bert) else parameters.flatten(backbone)
    if layout.get("scan"):
        flat = _stacked(flat, tower.architecture["backbone"]["depth"])
    flat |= parameters.flatten({"head": tower.params.get("head", {})})
    narrow = set(layout.get("bfloat16", ()))
    leaves = {f"txt/{name}": _narrowed(leaf) if name in narrow else leaf for name, leaf in flat.items()}
    leaves["t"] = np.array([log_scale], np.float32)
    if bias is not None:
        leaves["b"] = np.array([bias], np.float32)
    return leaves


def write_two_towers(
    path: Any, tower: TextTower, log_scale: float, bias: float | None, image: Mapping[str, np.ndarray]
) -> None:
    """A file of both towers.

    Args:
        path: of a local file, or a file open for writing.
        tower, log_scale, bias: as for `text_leaves`.
        image: the image tower's leaves by their names in its own file, without `img/`; written as they are.

    Raises:
        ValueError: as `text_leaves`.
    """
    leaves = text_leaves(tower, log_scale, bias) | {f"img/{name}": leaf for name, leaf in image.items()}
    np.savez(path, **leaves)  # type: ignore[arg-type]


def refuse_other_forms(tower: TextTower) -> None:
    """Raises ValueError, saying why, for a tower the reference has no network for."""
    if isinstance(tower.backbone, Transformer):
        if tower.backbone.config.mask_pads:
            raise ValueError(
                "two towers: must be given a tower that looks at its padding as the reference does, found one trained "
                "with padding masked, which the reference has no setting for. Train with --text-attend-pads, or take "
                "--format safetensors."
            )
        return
    if not isinstance(tower.backbone, Bert):
        raise ValueError(
            "two towers: must be given a text transformer or a BERT in the reference's form, found "
            f"{tower.name}, for which the reference has no network. Take --format safetensors."
        )
    config = tower.backbone.config
    wrong = [
        f"{name} must be {getattr(REFERENCE, name)!r}, found {getattr(config, name)!r}"
        for name in _BERT_FORM
        if getattr(config, name) != getattr(REFERENCE, name)
    ]
    if wrong:
        raise ValueError(
            f"two towers: a BERT must compute what the reference's does: {'; '.join(wrong)}. Start from a checkpoint "
            "in the reference's layout, or take --format hf."
        )


def _stacked(flat: Mapping[str, np.ndarray], depth: int) -> dict[str, np.ndarray]:
    """All blocks of a leaf in one array, the inverse of what reading does."""
    first = "Encoder_0/encoderblock_0/"
    rests = [name.removeprefix(first) for name in flat if name.startswith(first)]
    other = {name: leaf for name, leaf in flat.items() if not name.startswith("Encoder_0/encoderblock_")}
    return other | {
        STACKED + rest: np.stack([flat[f"Encoder_0/encoderblock_{i}/{rest}"] for i in range(depth)])
        for rest in rests
    }


def _narrowed(leaf: np.ndarray) -> np.ndarray:
    narrow = leaf.astype(ml_dtypes.bfloat16)
    return narrow if np.array_equal(narrow.astype(np.float32), leaf) else leaf
