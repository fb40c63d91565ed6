"""ConvNeXt image towers, V1 and V2, as Hugging Face writes them."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lit_precompute.config import TowerConfig
from lit_precompute.towers.hf_layers import (
    ACTIVATIONS,
    Params,
    layer_norm,
    linear,
    patches,
)
from lit_precompute.towers.hf_model import Family, check_pool, finished, grid_of, open_model
from lit_precompute.towers.hf_tensors import Shapes, dense, load_tensors, norm, without
from lit_precompute.towers.tower import RandomWeights, Tower, Weights

KERNEL = 7  # of the depthwise convolutions
CHANNELS_EPS = 1e-6  # of the norms inside; the configuration's epsilon is that of the last one
CLASSIFIER = "classifier"


@dataclass(frozen=True)
class Facts:
    """A ConvNeXt. `grn` tells V2 from V1; `head_size` is read from the file, 0 without a classifier."""

    depths: tuple[int, ...] = (3, 3, 9, 3)
    hidden_sizes: tuple[int, ...] = (96, 192, 384, 768)
    patch_size: int = 4
    grn: bool = False
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    head_size: int = 0


def _sizes(grn: bool, **variants: tuple[int, tuple[int, ...]]) -> dict[str, Facts]:
    """name=(width of the first stage, depths); each stage is twice as wide as the one before."""
    name = "convnextv2" if grn else "convnext"
    return {
        f"{name}-{variant}": Facts(depths, tuple(width << stage for stage in range(4)), grn=grn)
        for variant, (width, depths) in variants.items()
    }


DEEP = (3, 3, 27, 3)
FAMILY = Family(
    name="convnext",
    facts=Facts,
    sections={"convnext": "", "convnextv2": ""},
    presets={
        **_sizes(
            False,
            tiny=(96, (3, 3, 9, 3)),
            small=(96, DEEP),
            base=(128, DEEP),
            large=(192, DEEP),
            xlarge=(256, DEEP),
        ),
        **_sizes(
            True,
            atto=(40, (2, 2, 6, 2)),
            femto=(48, (2, 2, 6, 2)),
            pico=(64, (2, 2, 6, 2)),
            nano=(80, (2, 2, 8, 2)),
            tiny=(96, (3, 3, 9, 3)),
            base=(128, DEEP),
            large=(192, DEEP),
            huge=(352, DEEP),
        ),
    },
    processor=lambda facts: {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 224},
        "crop_pct": 0.875,
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    defaults={"convnext": {"grn": False}, "convnextv2": {"grn": True}},
)


def build(config: TowerConfig, weights: Weights) -> Tower:
    """The tower of a folder or a preset: logits of a classifier, or with `--features pre-head` the pooled channels.

    Raises:
        ValueError: the folder is no ConvNeXt, does not fit the preset, or its tensors do not fit (all listed).
    """
    check_pool(config, ("mean",))
    model = open_model(FAMILY, config, weights)
    facts = replace(model.facts, head_size=_classes(weights))
    if len(facts.depths) != len(facts.hidden_sizes):
        raise ValueError(
            f"{config.tower}: config.json must give as many depths as hidden_sizes, found {facts.depths} and "
            f"{facts.hidden_sizes}."
        )
    params = load(facts, weights, grid_of(model.preprocess, facts.patch_size * 8))
    if config.features == "pre-head" or config.pool:
        params = without(params, CLASSIFIER)
        facts = replace(facts, head_size=0)
    return finished(
        *(config, model, params, partial(embed, facts)),
        family=FAMILY.name,
        facts=facts,
        features="head" if facts.head_size else "mean",
        dim=facts.head_size or facts.hidden_sizes[-1],
    )


def _classes(weights: Weights) -> int:
    """Outputs of the file's classifier, 0 where there is none."""
    if isinstance(weights, RandomWeights):
        return 0
    bias = weights.tensors.get(f"{CLASSIFIER}.bias")
    return bias.shape[0] if bias is not None and bias.ndim else 0


def load(facts: Facts, weights: Weights, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """The tower's tensors, the same for every grid."""
    return load_tensors(weights, tensor_shapes(facts), _bare_name)


def _bare_name(name: str) -> str:
    return name.removeprefix("convnextv2.").removeprefix("convnext.")


def tensor_shapes(facts: Facts) -> Shapes:
    """Name and shape of every tensor."""
    shapes: Shapes = {}
    _convolution(shapes, "embeddings.patch_embeddings", facts.hidden_sizes[0], 3, facts.patch_size)
    norm(shapes, "embeddings.layernorm", facts.hidden_sizes[0])
    for stage, (depth, width) in enumerate(zip(facts.depths, facts.hidden_sizes, strict=True)):
        at = f"encoder.stages.{stage}"
        if stage:
            before = facts.hidden_sizes[stage - 1]
            norm(shapes, f"{at}.downsampling_layer.0", before)
            _convolution(shapes, f"{at}.downsampling_layer.1", width, before, 2)
        for layer in range(depth):
            _layer_shapes(shapes, f"{at}.layers.{layer}", width, facts.grn)
    norm(shapes, "layernorm", facts.hidden_sizes[-1])
    if facts.head_size:
        dense(shapes, CLASSIFIER, facts.head_size, facts.hidden_sizes[-1])
    return shapes


def _layer_shapes(shapes: Shapes, at: str, width: int, grn: bool) -> None:
    _convolution(shapes, f"{at}.dwconv", width, 1, KERNEL)
    norm(shapes, f"{at}.layernorm", width)
    dense(shapes, f"{at}.pwconv1", 4 * width, width)
    dense(shapes, f"{at}.pwconv2", width, 4 * width)
    if grn:
        shapes[f"{at}.grn.weight"] = shapes[f"{at}.grn.bias"] = (1, 1, 1, 4 * width)
    else:
        shapes[f"{at}.layer_scale_parameter"] = (width,)


def _convolution(shapes: Shapes, name: str, outputs: int, inputs: int, side: int) -> None:
    shapes[f"{name}.weight"] = (outputs, inputs, side, side)
    shapes[f"{name}.bias"] = (outputs,)


def embed(facts: Facts, params: Params, images: jax.Array) -> jax.Array:
    """Normalised images float32 [B, H, W, 3] -> float32 [B, D]."""
    x = _reduced(params, "embeddings.patch_embeddings", images, facts.patch_size)
    x = layer_norm(params, "embeddings.layernorm", x, CHANNELS_EPS)
    for stage, depth in enumerate(facts.depths):
        at = f"encoder.stages.{stage}"
        if stage:
            x = layer_norm(params, f"{at}.downsampling_layer.0", x, CHANNELS_EPS)
            x = _reduced(params, f"{at}.downsampling_layer.1", x, 2)
        for layer in range(depth):
            x = _layer(facts, params, f"{at}.layers.{layer}", x)
    x = layer_norm(params, "layernorm", jnp.mean(x, axis=(1, 2)), facts.layer_norm_eps)
    return linear(params, CLASSIFIER, x) if facts.head_size else x


def _reduced(params: Params, name: str, x: jax.Array, side: int) -> jax.Array:
    """A convolution as wide as its stride: [B, H, W, C] -> [B, H // side, W // side, D]."""
    batch, height, width, _ = x.shape
    return patches(params, name, x, side).reshape(batch, height // side, width // side, -1)


def _layer(facts: Facts, params: Params, at: str, x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    y = depthwise(x, params[f"{at}.dwconv.weight"]) + params[f"{at}.dwconv.bias"]
    y = layer_norm(params, f"{at}.layernorm", y, CHANNELS_EPS)
    y = ACTIVATIONS[facts.hidden_act](linear(params, f"{at}.pwconv1", y))
    if facts.grn:
        y = _grn(y, params[f"{at}.grn.weight"], params[f"{at}.grn.bias"])
    y = linear(params, f"{at}.pwconv2", y)
    return x + (y if facts.grn else y * params[f"{at}.layer_scale_parameter"])


def _grn(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """Global response normalisation: channels compete by their L2 norm over the image."""
    norms = jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2), keepdims=True))
    return weight * (x * (norms / (jnp.mean(norms, axis=-1, keepdims=True) + 1e-6))) + bias + x


def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A filter for each channel, [B, H, W, C] with kernel [C, 1, 7, 7], in the formulation of its platform.

    XLA on CPU runs grouped convolutions one channel at a time; 49 shifted products fuse into one pass instead.
    """
    return lax.platform_dependent(x, kernel, cpu=depthwise_shifted, default=depthwise_grouped)


def depthwise_shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    height, width = x.shape[1:3]
    reach = KERNEL // 2
    padded = jnp.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
    taps: Any = 0
    for row in range(KERNEL):
        for column in range(KERNEL):
            taps += padded[:, row : row + height, column : column + width] * kernel[:, 0, row, column]
    return taps


def depthwise_grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
        feature_group_count=x.shape[-1],
    )
