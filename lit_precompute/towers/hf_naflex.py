"""SigLIP 2 NaFlex image towers: every image keeps its aspect, cut into at most N patches.

What crosses to the device is uint8 [N + 1, P * P * 3] an image: its patches row by row, each flattened (y, x, channel),
zeros after the last, and one more row whose first bytes say how many rows and columns of patches there are.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from lit_precompute.config import TowerConfig
from lit_precompute.preprocess import RESAMPLING, Preprocess, resized
from lit_precompute.towers.hf_clip import encode, encoder_shapes
from lit_precompute.towers.hf_layers import ACTIVATIONS, Params, layer_norm, linear, map_head, normalise
from lit_precompute.towers.hf_model import Family, check_pool, finished, open_model
from lit_precompute.towers.hf_processor import RESAMPLE, read_scale, read_settings
from lit_precompute.towers.hf_siglip import HEAD, POSITIONS, TEXT_SIDE, TOP_LEVEL, head_shapes
from lit_precompute.towers.hf_tensors import Shapes, load_tensors, norm
from lit_precompute.towers.tower import Tower, Weights

SCALE_TOLERANCE, LARGEST_SCALE = 1e-5, 100.0  # of the reference's search for the largest size that fits


@dataclass(frozen=True)
class Facts:
    """A NaFlex tower; `num_patches` is the size of its square table of positions."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    patch_size: int = 16
    num_patches: int = 256
    vision_use_head: bool = True
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True)
class NaFlexPreprocess(Preprocess):
    """An image as patches; `image_size` and `resize` of the base have no say."""

    patch_size: int = 16
    max_num_patches: int = 256

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image -> uint8 [max_num_patches + 1, patch_size * patch_size * 3]."""
        patch = self.patch_size
        rows, columns = grid(image.height, image.width, patch, self.max_num_patches)
        pixels = np.asarray(resized(image, columns * patch, rows * patch, RESAMPLING[self.interpolation]))
        cut = pixels.reshape(rows, patch, columns, patch, 3).transpose(0, 2, 1, 3, 4)
        packed = np.zeros((self.max_num_patches + 1, patch * patch * 3), np.uint8)
        packed[: rows * columns] = cut.reshape(rows * columns, -1)
        packed[-1, :4] = [rows % 256, rows // 256, columns % 256, columns // 256]
        return packed

    def describe(self) -> dict[str, Any]:
        facts = super().describe()
        return {name: value for name, value in facts.items() if name not in ("image_size", "resize", "whole")}


FAMILY = Family(
    name="siglip2-naflex",
    facts=Facts,
    sections={"siglip2": "vision_config", "siglip2_vision_model": ""},
    presets={
        "siglip2-base-16-naflex": Facts(),
        "siglip2-so400m-16-naflex": Facts(1152, 27, 16, 4304),
    },
    processor=lambda facts: {"image_processor_type": "Siglip2ImageProcessor"},
    defaults={},
)


def build(config: TowerConfig, weights: Weights) -> Tower:
    """The tower of a folder or a preset: the MAP head's output.

    Raises:
        ValueError: the folder is no NaFlex tower, does not fit the preset, or its tensors do not fit (all listed).
    """
    check_pool(config, ("map",))
    if config.image_size or config.resize:
        raise ValueError(
            f"--image-size, --resize: must not be given with {config.tower}, which keeps every image's aspect."
        )
    model = open_model(FAMILY, config, weights, read_naflex)
    facts, preprocess = model.facts, model.preprocess
    assert isinstance(preprocess, NaFlexPreprocess)
    if preprocess.patch_size != facts.patch_size or not facts.vision_use_head:
        raise ValueError(
            f"{config.tower}: config.json must have vision_use_head and the patch_size of preprocessor_config.json "
            f"({preprocess.patch_size}), found {facts.vision_use_head} and {facts.patch_size}."
        )
    params = load_tensors(weights, tensor_shapes(facts), _full_name, _is_other)
    return finished(
        *(config, model, params, None),
        family=FAMILY.name,
        facts=facts,
        features="map",  # nothing follows the pooling, so pre-head is the same vector
        dim=facts.hidden_size,
        forward=partial(_forward, facts, preprocess),
    )


def read_naflex(
    source: str, processor: Mapping[str, Any], default: str, config: TowerConfig
) -> NaFlexPreprocess:
    """The preprocessing a file asks for. Raises ValueError where it cannot be followed."""
    kind, settings = read_settings(source, processor, default)
    sizes = [settings.get(key) for key in ("patch_size", "max_num_patches")]
    if kind != "Siglip2ImageProcessor" or not all(type(s) is int and 2 <= s < 1 << 16 for s in sizes):
        raise ValueError(
            f"{source}: preprocessor_config.json must be a Siglip2ImageProcessor with patch_size and max_num_patches, "
            f"found {kind} with {sizes}."
        )
    mean, std = read_scale(source, settings)
    name = RESAMPLE[settings["resample"]]
    patch, most = (int(size) for size in sizes if size is not None)
    return NaFlexPreprocess(
        "pillow", patch, "full", name, mean=mean, std=std, patch_size=patch, max_num_patches=most
    )


def grid(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """Rows and columns of patches of the largest scaled image with at most `most`, by bisection as the reference."""

    def at(scale: float) -> tuple[int, int]:
        rows, columns = (max(1, math.ceil(side * scale / patch)) for side in (height, width))
        return rows, columns

    low, high = SCALE_TOLERANCE / 10, LARGEST_SCALE
    while high - low >= SCALE_TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if math.prod(at(middle)) <= most else (low, middle)
    rows, columns = at(low)
    return min(rows, most), min(
        columns, most
    )  # a stripe of extreme aspect may not fit even at the smallest scale


def _full_name(name: str) -> str:
    return f"vision_model.{name}" if name.startswith(TOP_LEVEL) else name


def _is_other(name: str) -> bool:
    return name.startswith(TEXT_SIDE) or name.endswith("position_ids")


def tensor_shapes(facts: Facts) -> Shapes:
    """Name and shape of every tensor of the image tower."""
    width, hidden = facts.hidden_size, facts.intermediate_size
    shapes: Shapes = {
        POSITIONS: (facts.num_patches, width),
        "vision_model.embeddings.patch_embedding.weight": (width, facts.patch_size**2 * 3),
        "vision_model.embeddings.patch_embedding.bias": (width,),
    }
    encoder_shapes(shapes, facts.num_hidden_layers, width, hidden)
    norm(shapes, "vision_model.post_layernorm", width)
    head_shapes(shapes, width, hidden)
    return shapes


def embed(facts: Facts, params: Params, patches: jax.Array, shapes: jax.Array) -> jax.Array:
    """Normalised patches and their grids -> vectors.

    Args:
        patches: float32 [B, N, P * P * 3].
        shapes: int32 [B, 2], rows and columns; what comes after the last patch is not seen.

    Returns:
        float32 [B, d].
    """
    mask = jnp.arange(patches.shape[1]) < jnp.prod(shapes, axis=1, keepdims=True)  # [B, N]
    x = linear(params, "vision_model.embeddings.patch_embedding", patches)
    x = x + jax.vmap(positions, (None, 0, None))(params[POSITIONS], shapes, patches.shape[1])
    x = encode(params, x, facts, mask=mask)
    x = layer_norm(params, "vision_model.post_layernorm", x, facts.layer_norm_eps)
    act = ACTIVATIONS[facts.hidden_act]
    return map_head(params, HEAD, x, facts.num_attention_heads, facts.layer_norm_eps, act, mask)


def positions(table: jax.Array, shape: jax.Array, count: int) -> jax.Array:
    """The square table [n * n, d] resized to a grid known only on the device, for `count` patches: [count, d].

    Bilinear, half-pixel centres, with antialias when it shrinks.
    """
    side = math.isqrt(len(table))
    rows, columns = jnp.maximum(shape, 1)
    number = jnp.arange(count)
    down = _linear_weights(number // columns, rows, side)
    across = _linear_weights(number % columns, columns, side)
    return jnp.einsum("ny,nx,yxd->nd", down, across, table.reshape(side, side, -1))


def _linear_weights(index: jax.Array, new: jax.Array, old: int) -> jax.Array:
    """[count, old]: what each old sample adds to each new one."""
    at = (index[:, None] + 0.5) * old / new - 0.5
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(jnp.arange(old) - at) / jnp.maximum(old / new, 1.0))
    return weights / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1e-9)  # 0 / 0 past the last patch


def _forward(facts: Facts, preprocess: Preprocess, params: Params, packed: jax.Array) -> jax.Array:
    """uint8 [B, N + 1, P * P * 3] as `NaFlexPreprocess` packs it -> float32 [B, d]."""
    batch, count = packed.shape[0], packed.shape[1] - 1
    low, high = packed[:, -1, 0:4:2].astype(jnp.int32), packed[:, -1, 1:4:2].astype(jnp.int32)
    patches = normalise(packed[:, :-1].reshape(batch, count, -1, 3), preprocess).reshape(batch, count, -1)
    return embed(facts, params, patches, low + 256 * high)
