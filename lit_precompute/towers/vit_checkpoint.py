"""Every published layout of a ViT checkpoint, brought to one: renames, splits, and what the shapes say."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isqrt
from typing import Any, TypeGuard

import numpy as np

from lit_precompute.towers.linen import Tensors, image_half

MAP_HEAD_PARTS = ("probe", "MlpBlock_0", "MultiHeadDotProductAttention_0", "LayerNorm_0")
BLOCKS = "Transformer/encoderblock"
MAX_DEPTH = 1000  # the deepest published ViT has 56 blocks; a file that claims more than this is broken

# Modules that were named by counting; blocks were named by hand, and a gap in their numbers is a missing block.
COUNTED = ("Dense", "LayerNorm", "MlpBlock", "MultiHeadDotProductAttention")


@dataclass(frozen=True)
class ViTShape:
    """What a ViT looks like.

    Attributes:
        width: d, of every token.
        mlp: hidden width of the MLPs.
        patch: side in pixels.
        pool: `gap`, `map`, `tok`, `0`, or `none` for all tokens.
        posemb: `learn` or `sincos2d`.
        rep_size: width of the tanh layer before the head, or None.
        num_classes: width of the head, or None.
    """

    width: int
    depth: int
    mlp: int
    heads: int
    patch: int
    pool: str
    posemb: str = "learn"
    rep_size: int | None = None
    num_classes: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rename_old_layouts(tensors: Mapping[str, np.ndarray], pool: str | None = None) -> Tensors:
    """The image tower's tensors under today's names, blocks one by one.

    Takes a whole training checkpoint, a two-tower file (its `img/` half) or a bare tower; the order of the steps is
    the reference's. Without a class token its position is dropped, but only where `pool` or a MAP head says that none
    is needed: else the token is missing from the file, and the odd position stays to be complained about.
    """
    tensors = renumber_modules(image_half(tensors))
    for old in ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding"):
        if old in tensors:
            tensors["pos_embedding"] = tensors.pop(old)
    if "cls" in tensors or pool not in (None, "tok") or any(name.endswith("probe") for name in tensors):
        _split_class_position(tensors)
    for name in list(tensors):
        if name.split("/")[0] in MAP_HEAD_PARTS:
            tensors[f"MAPHead_0/{name}"] = tensors.pop(name)
    return _unstack_blocks(tensors)


def renumber_modules(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Counts modules per class, as Linen does: `LayerNorm_0, MlpBlock_3, LayerNorm_2` -> `..._0, ..._0, ..._1`.

    Files written before Linen, the AugReg ones among them, count all modules of a parent together.
    """
    siblings: dict[tuple[str, str], set[int]] = {}
    for name in tensors:
        for parent, stem, number in _numbered(name):
            siblings.setdefault((parent, stem), set()).add(number)
    ranks = {
        key: {number: rank for rank, number in enumerate(sorted(found))} for key, found in siblings.items()
    }
    renamed = {}
    for name, array in tensors.items():
        parts = name.split("/")
        for parent, stem, number in _numbered(name):
            parts[parent.count("/")] = f"{stem}_{ranks[parent, stem][number]}"
        renamed["/".join(parts)] = array
    return renamed


def _numbered(name: str) -> list[tuple[str, str, int]]:
    """(path of the parent ending in /, class, number) of every component of `name` that was named by counting."""
    found, parent = [], ""
    for part in name.split("/"):
        stem, _, number = part.rpartition("_")
        if stem in COUNTED and re.fullmatch(r"[0-9]{1,9}", number):
            found.append((parent, stem, int(number)))
        parent += f"{part}/"
    return found


def _split_class_position(tensors: Tensors) -> None:
    """A first position of its own for the class token, as vit_jax has it, is added to the token."""
    positions = tensors.get("pos_embedding")
    if (
        positions is None
        or positions.ndim != 3
        or positions.shape[1] < 2
        or not _is_square(positions.shape[1] - 1)
    ):
        return
    tensors["pos_embedding"] = positions[:, 1:]
    if "cls" in tensors:
        tensors["cls"] = tensors["cls"].astype(np.float32) + positions[:, :1].astype(np.float32)


def _unstack_blocks(tensors: Tensors) -> Tensors:
    """The scan layout keeps all blocks in one array per parameter, along axis 0."""
    for name in [name for name in tensors if name.startswith(f"{BLOCKS}/")]:
        if tensors[name].ndim and len(tensors[name]) <= MAX_DEPTH:
            for number, array in enumerate(tensors.pop(name)):
                tensors[f"{BLOCKS}_{number}/{name.removeprefix(f'{BLOCKS}/')}"] = array
    return tensors


def infer_shape(source: str, tensors: Tensors, pool: str | None, posemb: str = "learn") -> ViTShape:
    """What the network looks like, from names and shapes.

    Args:
        source: the file's name, for the message.
        tensors: as `rename_old_layouts` gives them.
        pool: the pooling asked for, or None to read it off: a MAP head means `map`, a class token `tok`, else `gap`.
        posemb: cannot be read off, since a file of fixed positions looks like one whose positions are missing.

    Raises:
        ValueError: the file is no ViT of this layout.
    """
    needed = {
        "embedding/kernel": 4,
        f"{BLOCKS}_0/MultiHeadDotProductAttention_0/query/kernel": 3,
        f"{BLOCKS}_0/MlpBlock_0/Dense_0/kernel": 2,
    }
    absent = [
        name for name, dims in needed.items() if name not in tensors or not _has_dims(tensors[name], dims)
    ]
    if absent:
        raise ValueError(
            f"{source}: a ViT checkpoint must have {', '.join(needed)}, found no usable {', '.join(absent)} among "
            f"{len(tensors)} tensors such as {', '.join(sorted(tensors)[:5])}. Is this the weight file of another kind "
            "of tower?"
        )
    embedding, query, dense = (tensors[name] for name in needed)
    depth = 1 + max(
        int(match[1]) for name in tensors if (match := re.match(rf"{BLOCKS}_([0-9]{{1,9}})/", name))
    )
    if depth > MAX_DEPTH:
        raise ValueError(f"{source}: a ViT must have at most {MAX_DEPTH} blocks, found number {depth - 1}.")
    found_pool = "map" if "MAPHead_0/probe" in tensors else "tok" if "cls" in tensors else "gap"
    return ViTShape(
        width=embedding.shape[3],
        depth=depth,
        mlp=dense.shape[1],
        heads=query.shape[1],
        patch=embedding.shape[0],
        pool=pool or found_pool,
        posemb=posemb,
        rep_size=_width_of(tensors, "pre_logits"),
        num_classes=_width_of(tensors, "head"),
    )


def _has_dims(array: np.ndarray | None, dims: int) -> TypeGuard[np.ndarray]:
    return array is not None and array.ndim == dims and array.size > 0


def _width_of(tensors: Tensors, layer: str) -> int | None:
    """Outputs of a layer that may be there or not."""
    found = [tensors[name] for name in (f"{layer}/kernel", f"{layer}/bias") if name in tensors]
    return next((array.shape[-1] for array in found if array.size), None)


def _is_square(number: int) -> bool:
    return number >= 0 and isqrt(number) ** 2 == number


def trained_grid(source: str, tensors: Tensors) -> int:
    """Side of the square grid of positions the checkpoint was trained with. Raises ValueError if there is none."""
    positions = tensors.get("pos_embedding")
    if not _has_dims(positions, 3) or positions.shape[0] != 1 or not _is_square(positions.shape[1]):
        found = "none" if positions is None else f"shape {list(positions.shape)}"
        raise ValueError(
            f"{source}: pos_embedding must be [1, grid * grid, d] (and one more where there is a cls), found {found}. "
            "A tower of fixed positions is --tower vit-sincos2d."
        )
    return isqrt(positions.shape[1])


def resample_posemb(positions: np.ndarray, grid: int) -> np.ndarray:
    """Positions for another image size.

    Bilinear with the corner samples kept in place and no antialiasing, as `scipy.ndimage.zoom(order=1)`; the usual
    half-pixel resize of images gives other numbers.

    Args:
        positions: [1, old * old, d].
        grid: the new side.

    Returns:
        float32 [1, grid * grid, d], the input itself when the side stays.
    """
    old, width = isqrt(positions.shape[1]), positions.shape[2]
    if old == grid:
        return positions
    weights = _linear_weights(old, grid)
    square = positions.astype(np.float64).reshape(old, old, width)
    resampled = np.einsum("yi,xj,ijd->yxd", weights, weights, square, optimize=True)
    return resampled.reshape(1, grid * grid, width).astype(np.float32)


def _linear_weights(old: int, new: int) -> np.ndarray:
    """[new, old]: what each old sample adds to each new one."""
    at = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(old)))
