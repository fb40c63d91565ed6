"""What the towers with Linen parameter trees do alike: shapes by tracing, random weights, the image half of a file."""

import math
import re
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import linen as nn
from flax import traverse_util

from lit_precompute.config import TowerConfig
from lit_precompute.preprocess import Preprocess
from lit_precompute.towers.chunks import by_tokens
from lit_precompute.towers.tower import RandomWeights, Tower, Weights, weights_name
from schemas.manifest import TowerInfo
from schemas.weights import params_subtree, subtree

DEFAULT_IMAGE_SIZE = 224
# What blocks multiply tokens by, in ViT and Mixer: cast once here rather than in every batch.
MULTIPLIES = re.compile(r"(^(embedding|stem)|(encoderblock|MixerBlock)_\d+/.*)/kernel$")
OTHER_HALF = ("txt/", "t", "b")  # of a dual encoder: its text tower, log temperature and bias

Tensors = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


def image_half(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """The image tower's tensors: of a whole training checkpoint, of a dual encoder's `img/`, or of a bare tower.

    A dual encoder's text tower, temperature and bias are left out; anything else beside `img/` stays under a name
    that no tower has, to be complained about.
    """
    tensors = params_subtree(tensors)
    inside = subtree(tensors, "img/")
    if not inside:
        return dict(tensors)
    other = {n: a for n, a in tensors.items() if not n.startswith(("img/", "txt/")) and n not in OTHER_HALF}
    return inside | {f"../{name}": array for name, array in other.items()}


@cache
def parameter_shapes(module: nn.Module, size: int) -> Shapes:
    """Name and shape of every parameter; traced only, so no device is needed."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    variables = jax.eval_shape(module.init, key, images)
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    return {name: leaf.shape for name, leaf in sorted(flat.items())}


def draw(weights: RandomWeights, shapes: Shapes) -> Tensors:
    """Drawn kernels; norms that change nothing, no biases."""
    tensors = weights.draw(shapes, lambda name: _fan_in(name, shapes[name]))
    for name, shape in shapes.items():
        if name.endswith(("/scale", "/bias")):
            tensors[name] = np.full(shape, float(name.endswith("/scale")), np.float32)
    return tensors


def _fan_in(name: str, shape: tuple[int, ...]) -> int:
    """Inputs that one output of a kernel sums over."""
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return shape[0]
    return max(1, int(np.prod(shape[:-1]))) if name.endswith("/kernel") else shape[-1]


def finished(
    config: TowerConfig,
    weights: Weights,
    module: nn.Module,
    tensors: Tensors,
    size: int,
    architecture: Mapping[str, Any],
    dim: int,
) -> Tower:
    """The tower of checked tensors, preprocessed in the reference's manner.

    Args:
        module: images float32 [B, S, S, 3] in [-1, 1] -> float32 [B, D].
        tensors: exactly the module's, by flat name.
        size: S.
        architecture: what decides the network, its family first.
        dim: D.
    """
    if config.compute_dtype == "bfloat16":
        module = module.clone(dtype=jnp.bfloat16)
        architecture = {**architecture, "compute_dtype": "bfloat16"}
    preprocess = Preprocess("reference", size, config.resize or "crop", "bilinear")
    info = TowerInfo(
        tower=config.tower,
        architecture=dict(architecture),
        weights=weights_name(weights),
        features="head" if any(name.startswith("head/") for name in tensors) else "pre-head",
        preprocessing=preprocess.describe(),
        embedding_dim=dim,
    )
    tensors = {name: array.astype(np.float32, copy=False) for name, array in tensors.items()}
    if config.compute_dtype == "bfloat16":
        tensors |= {name: _by_rows(name, a) for name, a in tensors.items() if MULTIPLIES.search(name)}
    params = traverse_util.unflatten_dict(tensors, sep="/")
    return Tower(info, preprocess, params, partial(_forward, module))


def _by_rows(name: str, kernel: np.ndarray) -> np.ndarray:
    """A kernel as bfloat16 [out, in], as layers take it that multiply in bfloat16."""
    return kernel.astype(ml_dtypes.bfloat16).reshape(_fan_in(name, kernel.shape), -1).T.copy()


def _forward(module: nn.Module, params: Any, pixels: jax.Array) -> jax.Array:
    embed = partial(_embed, module, params)
    patch = getattr(module.shape, "patch", None) if module.dtype is not None else None
    return by_tokens(embed, math.prod(pixels.shape[1:3]) // patch**2, pixels) if patch else embed(pixels)


def _embed(module: nn.Module, params: Any, pixels: jax.Array) -> jax.Array:
    images = pixels.astype(jnp.float32) / 255 * 2 - 1
    return jnp.asarray(module.apply({"params": params}, images))
