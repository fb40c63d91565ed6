"""EfficientNet-Lite0: a small pretrained tower that a laptop can run.

Weights have the names and layouts of the PyTorch package `efficientnet-lite-pytorch`; the network is Google's
EfficientNet-Lite (inverted residuals with ReLU6, no squeeze-and-excitation). The embedding is the mean over positions
of the last 1280 channels, before the classifier.

Batch norms are folded into the convolutions at load. Two formulations give the same numbers:

- Accelerators: `lax.conv` with groups, whole batch.
- CPU: XLA runs grouped convolutions one channel at a time, so a depthwise convolution is a sum of k * k shifted
  products, which fuse into one pass; the stem is a matmul over its 27 inputs; and 8 images at a time keep the widest
  activation (8 x 112 x 112 x 96 floats, 38 MB) from being streamed through memory for the whole batch.
  On 2 cores, batch 64, images/s: 6 with grouped convolutions, 85 shifted, 100 with the stem, 120 by eights.

In bfloat16 the 1 x 1 convolutions compute in it, nearly all of the work; depthwise ones, the stem and the mean stay
float32.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

from lit_precompute.config import TowerConfig
from lit_precompute.preprocess import Preprocess
from lit_precompute.towers import products
from lit_precompute.towers.chunks import in_chunks
from lit_precompute.towers.tower import RandomWeights, Tower, Weights, check_fit, weights_name
from schemas.manifest import TowerInfo

EMBEDDING_DIM = 1280
CLASSES = 1000
STEM_CHANNELS = 32
BATCH_NORM_EPSILON = 1e-3
MEAN, STD = 127.0, 128.0
CPU_CHUNK = 8

Params = dict[str, Any]
Conv = dict[str, Any]  # {"kernel": [kh, kw, in/groups, out], "bias": [out]}


@dataclass(frozen=True)
class Block:
    """One inverted residual: widen, filter each channel, narrow."""

    name: str
    kernel: int
    stride: int
    widened: int
    channels_in: int
    channels_out: int

    @property
    def widens(self) -> bool:
        return self.widened != self.channels_in

    @property
    def adds_input(self) -> bool:
        return self.stride == 1 and self.channels_in == self.channels_out


def _blocks() -> Iterator[Block]:
    """(blocks, kernel, stride of the first, expand ratio, channels) of the seven stages, block by block."""
    stages = (
        *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
        *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
    )
    number, channels_in = 0, STEM_CHANNELS
    for count, kernel, stride, expand, channels in stages:
        for first in (True, *(False,) * (count - 1)):
            widened = channels_in * expand
            yield Block(f"_blocks.{number}.", kernel, stride if first else 1, widened, channels_in, channels)
            number, channels_in = number + 1, channels


BLOCKS = tuple(_blocks())


def build(config: TowerConfig, weights: Weights) -> Tower:
    """The tower with weights from a file or a seed.

    Raises:
        ValueError: the checkpoint's tensors do not fit (all listed), or a ViT option was given.
    """
    if config.pool is not None:
        raise ValueError(
            f"--pool: is for ViT towers; {config.tower} has one way to pool, found {config.pool!r}."
        )
    size = config.image_size or 224
    preprocess = Preprocess("pillow", size, config.resize or "crop", "bicubic", 0.875, mean=MEAN, std=STD)
    params = fold(load_tensors(weights))
    architecture = {"family": "efficientnet-lite", "variant": "lite0"}
    if config.compute_dtype == "bfloat16":
        params = _in_bfloat16(params)
        architecture["compute_dtype"] = "bfloat16"
    info = TowerInfo(
        tower=config.tower,
        architecture=architecture,
        weights=weights_name(weights),
        features="pooled",  # also what enters the classifier, so pre-head is the same vector
        preprocessing=preprocess.describe(),
        embedding_dim=EMBEDDING_DIM,
    )
    forward = partial(_forward, mean=MEAN, std=STD)
    return Tower(info, preprocess, params, forward)


def load_tensors(weights: Weights) -> dict[str, np.ndarray]:
    """The checkpoint's tensors by their PyTorch names, checked; the counters of training steps are left out."""
    shapes = tensor_shapes()
    if isinstance(weights, RandomWeights):
        return _random(weights, shapes)
    found = {
        name: array for name, array in weights.tensors.items() if not name.endswith("num_batches_tracked")
    }
    check_fit(weights.source, found, shapes)
    return found


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv, norm, shape in _convolutions():
        shapes[f"{conv}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = (shape[0],)
    return shapes | {"_fc.weight": (CLASSES, EMBEDDING_DIM), "_fc.bias": (CLASSES,)}


def _convolutions() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Each convolution's name, its batch norm's name and its kernel's shape [out, in/groups, kh, kw]."""
    yield "_conv_stem", "_bn0", (STEM_CHANNELS, 3, 3, 3)
    for block in BLOCKS:
        if block.widens:
            yield f"{block.name}_expand_conv", f"{block.name}_bn0", (block.widened, block.channels_in, 1, 1)
        yield (
            f"{block.name}_depthwise_conv",
            f"{block.name}_bn1",
            (block.widened, 1, block.kernel, block.kernel),
        )
        yield f"{block.name}_project_conv", f"{block.name}_bn2", (block.channels_out, block.widened, 1, 1)
    yield "_conv_head", "_bn1", (EMBEDDING_DIM, BLOCKS[-1].channels_out, 1, 1)


def _random(weights: RandomWeights, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    tensors = weights.draw(shapes, lambda name: max(1, int(np.prod(shapes[name][1:]))))
    for name in shapes:
        if name.endswith(("running_var", "running_mean")) or "_bn" in name:  # a norm that changes nothing
            tensors[name] = np.full(
                shapes[name], float(name.endswith(("running_var", ".weight"))), np.float32
            )
    return tensors


def fold(tensors: Mapping[str, np.ndarray]) -> Params:
    """Convolutions with their batch norms inside: kernel * g and beta - mean * g, g = gamma / sqrt(var + eps).

    Worked out in float64, so that folding costs no precision; kernels become [kh, kw, in/groups, out].
    """
    params = {}
    for conv, norm, _ in _convolutions():
        gamma, beta, mean, variance = (
            tensors[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        kernel = tensors[f"{conv}.weight"].astype(np.float64) * gain[:, None, None, None]
        params[conv] = {
            "kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0), np.float32),
            "bias": (beta - mean * gain).astype(np.float32),
        }
    return params


def _in_bfloat16(params: Params) -> Params:
    """The kernels of 1 x 1 convolutions in bfloat16."""
    return {
        name: conv | {"kernel": conv["kernel"].astype(ml_dtypes.bfloat16)}
        if conv["kernel"].shape[:2] == (1, 1)
        else conv
        for name, conv in params.items()
    }


def classify(tensors: Mapping[str, np.ndarray], embeddings: np.ndarray) -> np.ndarray:
    """ImageNet logits float32 [B, 1000] of embeddings float32 [B, 1280]; classes in order of WordNet ids."""
    return embeddings @ tensors["_fc.weight"].astype(np.float32).T + tensors["_fc.bias"].astype(np.float32)


def _forward(params: Params, pixels: jax.Array, mean: float, std: float) -> jax.Array:
    """uint8 [B, S, S, 3] -> float32 [B, 1280], in the formulation of the platform it is compiled for."""
    embed = partial(_embed, mean=mean, std=std)
    by_platform = {
        "cpu": lambda params, pixels: in_chunks(partial(embed, params, shifted=True), CPU_CHUNK, pixels),
        "default": lambda params, pixels: embed(params, pixels, shifted=False),
    }
    return lax.platform_dependent(params, pixels, **by_platform)


def _embed(params: Params, pixels: jax.Array, *, shifted: bool, mean: float, std: float) -> jax.Array:
    x = (pixels.astype(jnp.float32) - mean) / std
    stem = _stem_matmul if shifted else partial(_conv, stride=2)
    x = _relu6(stem(x, params["_conv_stem"]))
    for block in BLOCKS:
        x = _block(params, x, block, shifted)
    return jnp.mean(_relu6(_pointwise(x, params["_conv_head"])), axis=(1, 2))


def _block(params: Params, x: jax.Array, block: Block, shifted: bool) -> jax.Array:
    wide = _relu6(_pointwise(x, params[f"{block.name}_expand_conv"])) if block.widens else x
    depthwise = _depthwise_shifted if shifted else partial(_conv, groups=block.widened)
    wide = _relu6(depthwise(wide, params[f"{block.name}_depthwise_conv"], stride=block.stride))
    narrow = _pointwise(wide, params[f"{block.name}_project_conv"])
    return x + narrow if block.adds_input else narrow


def _relu6(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 6)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: the output has ceil(size / stride) pixels, and the odd one of the padding comes last."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _conv(x: jax.Array, conv: Conv, stride: int, groups: int = 1) -> jax.Array:
    padding = [same_padding(size, conv["kernel"].shape[0], stride) for size in x.shape[1:3]]
    out = lax.conv_general_dilated(
        x,
        conv["kernel"],
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return out + conv["bias"]


def _pointwise(x: jax.Array, conv: Conv) -> jax.Array:
    """1 x 1 convolution: [B, H, W, in] @ [in, out] in the type of the kernel, then float32."""
    kernel = conv["kernel"][0, 0]
    return products.matmul(x.astype(kernel.dtype), kernel).astype(jnp.float32) + conv["bias"]


def _depthwise_shifted(x: jax.Array, conv: Conv, stride: int) -> jax.Array:
    kernel = conv["kernel"]  # [k, k, 1, C]
    taps = _shifts(x, kernel.shape[0], stride)
    return (
        sum(tap * weight for tap, weight in zip(taps, kernel.reshape(-1, x.shape[-1]), strict=True))
        + conv["bias"]
    )


def _stem_matmul(x: jax.Array, conv: Conv) -> jax.Array:
    kernel = conv["kernel"]  # [3, 3, 3, 32]
    patches = jnp.concatenate(list(_shifts(x, kernel.shape[0], stride=2)), axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1]) + conv["bias"]


def _shifts(x: jax.Array, kernel: int, stride: int) -> Iterator[jax.Array]:
    """For each kernel position, row by row, the pixel under it at every place of the output: [B, H', W', C]."""
    pads = [same_padding(size, kernel, stride) for size in x.shape[1:3]]
    reach = [(-(-size // stride) - 1) * stride + 1 for size in x.shape[1:3]]
    padded = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    for row in range(kernel):
        for column in range(kernel):
            yield padded[:, row : row + reach[0] : stride, column : column + reach[1] : stride]
