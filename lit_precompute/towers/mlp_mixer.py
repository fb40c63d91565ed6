"""MLP-Mixer (arXiv 2105.01601): two MLPs a block, one across patches and one across channels."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lit_precompute.config import TowerConfig
from lit_precompute.towers.linen import (
    DEFAULT_IMAGE_SIZE,
    Tensors,
    draw,
    finished,
    image_half,
    parameter_shapes,
)
from lit_precompute.towers.tower import RandomWeights, Tower, Weights, check_fit
from lit_precompute.towers.vit_checkpoint import renumber_modules
from lit_precompute.towers.vit_network import Dense, MlpBlock, patches
from schemas.weights import WeightsFile

MAX_DEPTH = 1000
OLD_LAYERS = {
    "kernel1": "Dense_0/kernel",
    "bias1": "Dense_0/bias",
    "kernel2": "Dense_1/kernel",
    "bias2": "Dense_1/bias",
}


@dataclass(frozen=True)
class MixerShape:
    """What a Mixer looks like. `tokens` is the number of patches, which its weights are tied to."""

    width: int
    depth: int
    tokens_mlp: int
    channels_mlp: int
    patch: int
    tokens: int
    num_classes: int | None = None

    @property
    def image_size(self) -> int:
        return isqrt(self.tokens) * self.patch


# name: (width, depth, MLP over channels, MLP over tokens)
VARIANTS = {
    "s": (512, 8, 2048, 256),
    "b": (768, 12, 3072, 384),
    "l": (1024, 24, 4096, 512),
    "h": (1280, 32, 5120, 640),
}


def _preset(variant: str, patch: int, num_classes: int | None = None) -> MixerShape:
    width, depth, channels, tokens = VARIANTS[variant]
    patches = (DEFAULT_IMAGE_SIZE // patch) ** 2
    return MixerShape(width, depth, tokens, channels, patch, patches, num_classes)


PRESETS = {
    **{f"mixer-{variant}-{patch}": _preset(variant, patch) for variant in "sbl" for patch in (16, 32)},
    "mixer-h-14": _preset("h", 14),
    **{f"mixer-{variant}-16-i21k": _preset(variant, 16, 21_843) for variant in "bl"},  # as published
    **{f"mixer-{variant}-16-i1k": _preset(variant, 16, 1000) for variant in "bl"},
}


def build(config: TowerConfig, weights: Weights) -> Tower:
    """The tower of a file or a seed: the mean of all tokens, or the head's logits where a file has a head.

    Raises:
        ValueError: the checkpoint is no Mixer, does not fit the preset or the image size, or its tensors do not fit
            (all listed).
    """
    if config.pool not in (None, "mean"):
        raise ValueError(f"--pool: {config.tower} must be given none or mean, found {config.pool!r}.")
    if isinstance(weights, RandomWeights):
        if config.tower not in PRESETS:
            raise ValueError(
                f"--tower: random weights need a size, found {config.tower!r}. Known: {', '.join(PRESETS)}."
            )
        shape = weights.of_size(PRESETS[config.tower])
        tensors = draw(weights, parameter_shapes(Mixer(shape), shape.image_size))
    else:
        shape, tensors = _from_file(config.tower, weights)
    size = config.image_size or shape.image_size
    if (-(-size // shape.patch)) ** 2 != shape.tokens:
        raise ValueError(
            f"--image-size: {config.tower} must see {shape.image_size} pixels, since its weights mix {shape.tokens} "
            f"patches, found {size}."
        )
    if config.features == "pre-head" and shape.num_classes:
        shape = replace(shape, num_classes=None)
        tensors = {name: array for name, array in tensors.items() if not name.startswith("head/")}
    architecture = {"family": "mixer"} | asdict(shape)
    dim = shape.num_classes or shape.width
    return finished(config, weights, Mixer(shape), tensors, size, architecture, dim)


def _from_file(tower: str, weights: WeightsFile) -> tuple[MixerShape, Tensors]:
    tensors = rename_old_layouts(weights.tensors)
    shape = infer_shape(weights.source, tensors)
    wanted = PRESETS.get(tower)
    if wanted and (shape if wanted.num_classes else replace(shape, num_classes=None)) != wanted:
        raise ValueError(
            f"--tower {tower} must be {wanted}, found {shape} in {weights.source}. Use --tower mixer to take "
            "the checkpoint as it is."
        )
    check_fit(weights.source, tensors, parameter_shapes(Mixer(shape), shape.image_size))
    return shape, tensors


def rename_old_layouts(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Tensors under the names of today; kernels of the first files have axes of length one more."""
    renamed = {}
    for name, array in renumber_modules(image_half(tensors)).items():
        name = name.replace("Mixer/encoder_norm/", "pre_head_layer_norm/")
        name = re.sub(r"^embedding/", "stem/", name)
        name = re.sub(r"^Mixer/encoderblock_(\d+)/", r"MixerBlock_\1/", name)
        if match := re.fullmatch(r"(.*/(?:token|channel)_mixing)_phase_0/(\w+)", name):
            name = f"{match[1]}/{OLD_LAYERS.get(match[2], match[2])}"
            array = array.squeeze()
        renamed[name] = array
    return renamed


def infer_shape(source: str, tensors: Tensors) -> MixerShape:
    """What the network looks like, from names and shapes.

    Raises:
        ValueError: the file is no Mixer.
    """
    needed = {
        "stem/kernel": 4,
        "MixerBlock_0/token_mixing/Dense_0/kernel": 2,
        "MixerBlock_0/channel_mixing/Dense_0/kernel": 2,
    }
    absent = [
        name
        for name, dims in needed.items()
        if name not in tensors or tensors[name].ndim != dims or not tensors[name].size
    ]
    numbers = [int(match[1]) for name in tensors if (match := re.match(r"MixerBlock_(\d{1,9})/", name))]
    if absent or max(numbers) >= MAX_DEPTH:
        raise ValueError(
            f"{source}: a Mixer checkpoint must have {', '.join(needed)} and at most {MAX_DEPTH} blocks, found no "
            f"usable {', '.join(absent) or 'number of blocks'} among {len(tensors)} tensors such as "
            f"{', '.join(sorted(tensors)[:5])}. Is this the weight file of another kind of tower?"
        )
    stem, tokens, channels = (tensors[name].shape for name in needed)
    if isqrt(tokens[0]) ** 2 != tokens[0]:
        raise ValueError(f"{source}: a Mixer must mix a square of patches, found {tokens[0]}.")
    head = [tensors[name].shape[-1] for name in ("head/kernel", "head/bias") if name in tensors]
    return MixerShape(
        *(stem[3], 1 + max(numbers), tokens[1], channels[1], stem[0], tokens[0]), head[0] if head else None
    )


class MixerBlock(nn.Module):
    """x += mlp(norm(x)^T)^T over tokens; x += mlp(norm(x)) over channels."""

    tokens_mlp: int
    channels_mlp: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.LayerNorm(name="LayerNorm_0")(x).swapaxes(1, 2)  # [B, d, L]
        x = x + MlpBlock(self.tokens_mlp, self.dtype, name="token_mixing")(y).swapaxes(1, 2)
        y = nn.LayerNorm(name="LayerNorm_1")(x)
        return x + MlpBlock(self.channels_mlp, self.dtype, name="channel_mixing")(y)


class Mixer(nn.Module):
    """Images float32 [B, H, W, 3] in [-1, 1] -> float32 [B, D]."""

    shape: MixerShape
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        shape = self.shape
        x = Dense((shape.width,), axes=3, dtype=self.dtype, name="stem")(
            patches(_padded(images, shape.patch), shape.patch)
        )
        x = x.reshape(len(x), -1, shape.width)
        for number in range(shape.depth):
            x = MixerBlock(shape.tokens_mlp, shape.channels_mlp, self.dtype, name=f"MixerBlock_{number}")(x)
        x = jnp.mean(nn.LayerNorm(name="pre_head_layer_norm")(x), axis=1)
        return nn.Dense(shape.num_classes, name="head")(x) if shape.num_classes else x


def _padded(images: jax.Array, patch: int) -> jax.Array:
    """Grey around images whose side the patch does not divide, the odd line at the end, so that every pixel is seen."""
    missing = [-side % patch for side in images.shape[1:3]]
    return jnp.pad(images, [(0, 0), *((lines // 2, lines - lines // 2) for lines in missing), (0, 0)])
