"""ViT towers: from a checkpoint or a seed to parameters and a forward function.

What the network looks like is read from the shapes in the checkpoint, so one name, `vit`, takes every size; names such
as `vit-b-32` say a size that the checkpoint must have, or that random weights get.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lit_precompute.config import TowerConfig
from lit_precompute.preprocess import Preprocess
from lit_precompute.towers.tower import RandomWeights, Tower, Weights, check_fit, weights_name
from lit_precompute.towers.vit_checkpoint import (
    ViTShape,
    infer_shape,
    rename_old_layouts,
    resample_posemb,
    trained_grid,
)
from lit_precompute.towers.vit_network import ViT
from schemas.manifest import TowerInfo
from schemas.weights import WeightsFile

POOLS = ("gap", "map", "tok", "0")
DEFAULT_IMAGE_SIZE = 224
FIXED_POSITIONS = "vit-sincos2d"  # the one tower without learned positions

# name: (width, depth, mlp, heads)
VARIANTS = {
    "mu": (32, 1, 128, 2),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "So400m": (1152, 27, 4304, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "g-opt": (1536, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
    "G-opt": (1536, 48, 8192, 16),
    "e": (1792, 56, 15360, 16),
}

# Names of towers are lower case, so the two sizes that differ only in case are spelt out.
PRESETS = {
    **{f"vit-{name.lower()}-{patch}": (name, patch) for name in ("mu", "Ti", "S", "M") for patch in (16, 32)},
    **{f"vit-b-{patch}": ("B", patch) for patch in (8, 16, 32)},
    **{f"vit-l-{patch}": ("L", patch) for patch in (14, 16, 32)},
    **{f"vit-so400m-{patch}": ("So400m", patch) for patch in (14, 16)},
    **{f"vit-h-{patch}": ("H", patch) for patch in (14, 16)},
    **{f"vit-giant-{patch}": ("g", patch) for patch in (14, 16)},
    **{f"vit-giant-opt-{patch}": ("g-opt", patch) for patch in (14, 16)},
    "vit-gigantic-14": ("G", 14),
    "vit-gigantic-opt-14": ("G-opt", 14),
    "vit-e-14": ("e", 14),
}


def build(config: TowerConfig, weights: Weights) -> Tower:
    """The tower with weights from a file or a seed.

    Raises:
        ValueError: pool or preset do not fit the checkpoint, or its tensors do not fit each other (all listed).
    """
    if config.pool is not None and config.pool not in POOLS:
        raise ValueError(f"--pool: must be one of {', '.join(POOLS)}, found {config.pool!r}.")
    if isinstance(weights, RandomWeights):
        shape, size, params = _from_seed(config, weights)
    else:
        shape, size, params = _from_file(config, weights)
    if config.features == "pre-head" and shape.num_classes:
        shape = replace(shape, num_classes=None)
        del params["head"]
    preprocess = Preprocess("reference", size, config.resize or "crop", "bilinear")
    info = TowerInfo(
        tower=config.tower,
        architecture={"family": "vit"} | shape.to_json(),
        weights=weights_name(weights),
        features="head" if shape.num_classes else "pre-head",
        preprocessing=preprocess.describe(),
        embedding_dim=shape.num_classes or shape.rep_size or shape.width,
    )
    return Tower(info, preprocess, params, partial(_forward, ViT(shape)))


def _forward(model: ViT, params: Any, pixels: jax.Array) -> jax.Array:
    images = pixels.astype(jnp.float32) / 255 * 2 - 1
    return jnp.asarray(model.apply({"params": params}, images))


def _from_file(config: TowerConfig, weights: WeightsFile) -> tuple[ViTShape, int, dict[str, Any]]:
    tensors = rename_old_layouts(weights.tensors, config.pool)
    posemb = "sincos2d" if config.tower == FIXED_POSITIONS else "learn"
    shape = infer_shape(weights.source, tensors, config.pool, posemb)
    if config.tower in PRESETS:
        _check_preset(config.tower, shape)
    if posemb == "sincos2d":
        size = config.image_size or DEFAULT_IMAGE_SIZE
        _grid(size, shape)
    else:
        trained = trained_grid(weights.source, tensors)
        size = config.image_size or trained * shape.patch
        tensors["pos_embedding"] = resample_posemb(tensors["pos_embedding"], _grid(size, shape))
    check_fit(weights.source, tensors, tensor_shapes(shape, size))
    return shape, size, _tree({name: array.astype(np.float32) for name, array in tensors.items()})


def _from_seed(config: TowerConfig, weights: RandomWeights) -> tuple[ViTShape, int, dict[str, Any]]:
    if config.tower not in PRESETS:
        raise ValueError(
            f"--tower: random weights need a size, such as vit-b-32, found {config.tower!r}. "
            f"Known: {', '.join(PRESETS)}."
        )
    shape, size = preset(config.tower, config.pool or "gap"), config.image_size or DEFAULT_IMAGE_SIZE
    _grid(size, shape)
    shapes = tensor_shapes(shape, size)
    tensors = weights.draw(shapes, lambda name: _fan_in(name, shapes[name]))
    for name in tensors:
        if name.endswith(("/scale", "/bias")):
            tensors[name] = np.full(shapes[name], float(name.endswith("/scale")), np.float32)
    return shape, size, _tree(tensors)


def preset(tower: str, pool: str) -> ViTShape:
    """The network of a name such as `vit-b-32`, without a head."""
    variant, patch = PRESETS[tower]
    width, depth, mlp, heads = VARIANTS[variant]
    return ViTShape(width, depth, mlp, heads, patch, pool)


def _check_preset(tower: str, found: ViTShape) -> None:
    wanted = preset(tower, found.pool).to_json()
    differing = [
        name for name in ("width", "depth", "mlp", "heads", "patch") if wanted[name] != getattr(found, name)
    ]
    if differing:
        listed = ", ".join(f"{name} {wanted[name]} (found {getattr(found, name)})" for name in differing)
        raise ValueError(
            f"--tower {tower} must have {listed}. Use --tower vit to take the checkpoint as it is."
        )


def _grid(size: int, shape: ViTShape) -> int:
    if size < shape.patch:
        raise ValueError(f"--image-size: must be at least the patch, {shape.patch} pixels, found {size}.")
    return size // shape.patch


def tensor_shapes(shape: ViTShape, size: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter; traced only, so no device is needed."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    variables = jax.eval_shape(ViT(shape).init, key, images)
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    return {name: leaf.shape for name, leaf in sorted(flat.items())}


def _fan_in(name: str, shape: tuple[int, ...]) -> int:
    """Inputs that one output of a kernel sums over."""
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return shape[0]
    return max(1, int(np.prod(shape[:-1]))) if name.endswith("/kernel") else shape[-1]


def _tree(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    return traverse_util.unflatten_dict(tensors, sep="/")
