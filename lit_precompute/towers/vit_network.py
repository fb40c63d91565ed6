"""The Vision Transformer of the LiT, SigLIP, CLIPPO and AugReg checkpoints.

Pre-LN blocks, GELU in its tanh approximation, LayerNorm epsilon 1e-6. Parameter names are those of the published files
(`Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel`), so loading is a rename at most.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lit_precompute.towers.last_block import wanted_tokens
from lit_precompute.towers.products import attention, matmul
from lit_precompute.towers.vit_checkpoint import ViTShape


class Dense(nn.Module):
    """x @ kernel + bias over the last `axes` axes of x: the product in `dtype`, its result and the sum float32.

    The kernel is [*in, *features] as in the files, but by rows [out, in] where dtype is bfloat16.
    """

    features: tuple[int, ...]
    axes: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        rows, inputs = x.shape[: -self.axes], x.shape[-self.axes :]
        x = x.reshape(*rows, -1)
        shape = (math.prod(self.features), x.shape[-1]) if self.dtype else (*inputs, *self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, self.features)
        if self.dtype:
            product = matmul(x.astype(self.dtype), kernel.astype(self.dtype), by_rows=True)
        else:
            product = matmul(x, kernel.reshape(x.shape[-1], -1))
        return (product.astype(jnp.float32) + bias.reshape(-1)).reshape(*rows, *self.features)


class MlpBlock(nn.Module):
    """Dense, GELU, Dense."""

    hidden: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = nn.gelu(Dense((self.hidden,), dtype=self.dtype, name="Dense_0")(x), approximate=True)
        return Dense((width,), dtype=self.dtype, name="Dense_1")(x)


class Attention(nn.Module):
    """Multi-head attention of `queries` [B, Q, d] over `keys` [B, L, d], with biases, without a mask."""

    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        width = queries.shape[-1]
        split = partial(Dense, (self.heads, width // self.heads), dtype=self.dtype)
        query, key, value = split(name="query")(queries), split(name="key")(keys), split(name="value")(keys)
        query, key, value = nn.dtypes.promote_dtype(query, key, value, dtype=self.dtype)
        mixed = attention(query, key, value)  # [B, Q, heads, d / heads]
        return Dense((width,), axes=2, dtype=self.dtype, name="out")(mixed)


class EncoderBlock(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x)); [B, L, d] -> [B, Q, d], the Q first tokens `wanted`, None: all."""

    heads: int
    mlp: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, wanted: int | None = None) -> jax.Array:
        y = nn.LayerNorm(name="LayerNorm_0")(x)
        attend = Attention(self.heads, self.dtype, name="MultiHeadDotProductAttention_0")
        x = x[:, :wanted] + attend(y[:, :wanted], y)
        y = nn.LayerNorm(name="LayerNorm_1")(x)
        return x + MlpBlock(self.mlp, self.dtype, name="MlpBlock_0")(y)


class Encoder(nn.Module):
    """The blocks, then the last norm; of the last block only what `pool` looks at."""

    depth: int
    heads: int
    mlp: int
    pool: str
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number in range(self.depth):
            wanted = wanted_tokens(number, self.depth, self.pool)
            x = EncoderBlock(self.heads, self.mlp, self.dtype, name=f"encoderblock_{number}")(x, wanted)
        return nn.LayerNorm(name="encoder_norm")(x)


class MapHead(nn.Module):
    """Attention pooling: one learned query looks at all tokens."""

    heads: int
    mlp: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, x.shape[-1]))
        probe = jnp.broadcast_to(probe, (x.shape[0], 1, x.shape[-1]))
        x = Attention(self.heads, name="MultiHeadDotProductAttention_0")(probe, x)
        x = x + MlpBlock(self.mlp, name="MlpBlock_0")(nn.LayerNorm(name="LayerNorm_0")(x))
        return x[:, 0]


def patches(images: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, 3] -> [B, H // p, W // p, p, p, 3], for a `Dense` that is a convolution of stride p."""
    batch, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    cut = images[:, : rows * patch, : columns * patch]  # what is left over at the right and below is not seen
    return cut.reshape(batch, rows, patch, columns, patch, channels).transpose(0, 1, 3, 2, 4, 5)


class ViT(nn.Module):
    """Images float32 [B, H, W, 3] in [-1, 1] -> float32 [B, D]; pool `none` gives every token, [B, L, D].

    With dtype bfloat16 the patch embedding, attention and MLPs of the blocks multiply in it; biases, activations, sums
    along the depth, norms and all after the last norm stay float32.
    """

    shape: ViTShape
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        shape = self.shape
        x = Dense((shape.width,), axes=3, dtype=self.dtype, name="embedding")(patches(images, shape.patch))
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows * columns, width) + self.positions(rows, columns)
        if shape.pool == "tok":
            token = self.param("cls", nn.initializers.zeros, (1, 1, width))
            x = jnp.concatenate([jnp.broadcast_to(token, (batch, 1, width)), x], axis=1)
        x = Encoder(shape.depth, shape.heads, shape.mlp, shape.pool, self.dtype, name="Transformer")(x)
        x = self.pooled(x)
        if shape.rep_size:
            x = nn.tanh(nn.Dense(shape.rep_size, name="pre_logits")(x))
        return nn.Dense(shape.num_classes, name="head")(x) if shape.num_classes else x

    def positions(self, rows: int, columns: int) -> jax.Array | np.ndarray:
        width = self.shape.width
        if self.shape.posemb == "sincos2d":
            return sincos2d(rows, columns, width)
        init = nn.initializers.normal(width**-0.5)
        return self.param("pos_embedding", init, (1, rows * columns, width))

    def pooled(self, x: jax.Array) -> jax.Array:
        match self.shape.pool:
            case "gap":
                return jnp.mean(x, axis=1)
            case "map":
                return MapHead(self.shape.heads, self.shape.mlp, name="MAPHead_0")(x)
            case "none":
                return x
            case _:
                return x[:, 0]


def sincos2d(rows: int, columns: int, width: int) -> np.ndarray:
    """Fixed positions float32 [1, rows * columns, d]: sin and cos of x, then of y, at d / 4 frequencies."""
    if width % 4 or width < 8:
        raise ValueError(
            f"vit: sincos2d positions need a width that is a multiple of 4 from 8 on, found {width}."
        )
    y, x = np.mgrid[:rows, :columns].reshape(2, -1, 1)
    omega = 10_000.0 ** -(np.arange(width // 4) / (width // 4 - 1))
    waves = [wave(axis * omega) for axis in (x, y) for wave in (np.sin, np.cos)]
    return np.concatenate(waves, axis=1)[None].astype(np.float32)
