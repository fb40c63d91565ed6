"""The layers of Hugging Face image towers, on tensors named and laid out as in their files.

Parameters are one flat dict under the file's names, `{"encoder.layers.0.norm1.weight": [d], ...}`, so an error message,
the file and the code say the same name. Only a linear layer's float32 `weight` [out, in] is a `kernel` [in, out] here,
a view: on its way to a device it is laid out as processors multiply by it fastest, instead of in every product. A
convolution that cuts patches is such a layer, too, over [p, p, 3] as images are laid out.

A layer multiplies in the type of its weight, float32 or bfloat16; all between products is float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lit_precompute.preprocess import Preprocess
from lit_precompute.towers import products

Params = Mapping[str, jax.Array]
Activation = Callable[[jax.Array], jax.Array]


def _gelu(x: jax.Array) -> jax.Array:
    """x (1 + erf(x / sqrt(2))) / 2 in float32, as torch computes it; JAX's own takes the slower erfc."""
    wide = x.astype(jnp.float32)
    return (wide * 0.5 * (1 + lax.erf(wide * 0.5**0.5))).astype(x.dtype)


ACTIVATIONS: dict[str, Activation] = {
    "gelu": _gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


@dataclass(frozen=True)
class BlockNames:
    """What one family calls the parts of a block."""

    norm1: str
    query: str
    key: str
    value: str
    out: str
    norm2: str


def normalise(pixels: jax.Array, preprocess: Preprocess) -> jax.Array:
    """uint8 [B, H, W, 3] -> float32 (pixel - mean) / std."""
    mean, std = (jnp.asarray(value, jnp.float32) for value in (preprocess.mean, preprocess.std))
    return (pixels.astype(jnp.float32) - mean) / std


def linear(params: Params, name: str, x: jax.Array) -> jax.Array:
    """[..., in] -> float32 [..., out]; the bias is added where there is one."""
    kernel, by_rows = _kernel(params, name)
    return matmul(x, kernel, params.get(f"{name}.bias"), by_rows=by_rows)


def rounded_linear(params: Params, name: str, x: jax.Array) -> jax.Array:
    """`linear` with a result in the type of its kernel, for attention to compute in."""
    kernel, _ = _kernel(params, name)
    return linear(params, name, x).astype(kernel.dtype)


def _kernel(params: Params, name: str) -> tuple[jax.Array, bool]:
    """A layer's kernel, and whether it is by rows."""
    kernel = params.get(f"{name}.kernel")
    return (params[f"{name}.weight"], True) if kernel is None else (kernel, False)


def matmul(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, by_rows: bool = False
) -> jax.Array:
    """x @ kernel + bias, the product in the kernel's type, the result float32; `by_rows`: the kernel is [out, in]."""
    y = products.matmul(x.astype(kernel.dtype), kernel, by_rows=by_rows).astype(jnp.float32)
    return y if bias is None else y + bias


def layer_norm(params: Params, name: str, x: jax.Array, eps: float) -> jax.Array:
    """Over the last axis, float32; the variance in two passes, as E[x^2] - E[x]^2 loses digits."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps) * params[f"{name}.weight"] + params[f"{name}.bias"]


def patches(params: Params, name: str, images: jax.Array, patch: int) -> jax.Array:
    """A p x p convolution of stride p, as the linear layer it is, row by row: [B, H, W, 3] -> [B, (H//p) * (W//p), d].

    What is left over at the right and below is not seen.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    cut = images[:, : rows * patch, : columns * patch]
    cut = cut.reshape(batch, rows, patch, columns, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return linear(params, name, cut.reshape(batch, rows * columns, -1))


def prepend(token: jax.Array, x: jax.Array) -> jax.Array:
    """One learned token, or several, [..., d] before the tokens x [B, L, d]."""
    tokens = token.reshape(1, -1, x.shape[-1])
    return jnp.concatenate([jnp.broadcast_to(tokens, (len(x), *tokens.shape[1:])), x], axis=1)


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, heads: int, mask: jax.Array | None = None
) -> jax.Array:
    """[B, Q, d] over [B, L, d] -> [B, Q, d]; mask bool [B, L], True where a token counts."""
    query, key, value = (x.astype(value.dtype).reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    where = None if mask is None else mask[:, None, None, :]
    return products.attention(query, key, value, where).reshape(*query.shape[:2], -1)


def mlp(params: Params, at: str, x: jax.Array, act: Activation) -> jax.Array:
    """fc1, activation, fc2."""
    return linear(params, f"{at}.fc2", act(linear(params, f"{at}.fc1", x)))


def block(
    params: Params,
    at: str,
    x: jax.Array,
    names: BlockNames,
    heads: int,
    eps: float,
    feed_forward: Activation,
    mask: jax.Array | None = None,
    wanted: int | None = None,
) -> jax.Array:
    """x += attention(norm1(x)); x += feed_forward(norm2(x)); each sum scaled by channel where the file has a scale.

    Args:
        at: prefix of the block's tensors, such as `encoder.layers.0`.
        x: [B, L, d].
        mask: as in `attention`.
        wanted: Q, how many of the first tokens, as `last_block` has it; None: all.

    Returns:
        [B, Q, d].
    """
    y = layer_norm(params, f"{at}.{names.norm1}", x, eps)
    query = rounded_linear(params, f"{at}.{names.query}", y[:, :wanted])
    key, value = (rounded_linear(params, f"{at}.{n}", y) for n in (names.key, names.value))
    y = linear(params, f"{at}.{names.out}", attention(query, key, value, heads, mask))
    x = x[:, :wanted] + scaled(params, f"{at}.layer_scale1", y)
    y = feed_forward(layer_norm(params, f"{at}.{names.norm2}", x, eps))
    return x + scaled(params, f"{at}.layer_scale2", y)


def scaled(params: Params, name: str, x: jax.Array) -> jax.Array:
    """LayerScale: one learned factor a channel, where the file has one."""
    return x * params[f"{name}.lambda1"] if f"{name}.lambda1" in params else x


def map_head(
    params: Params,
    at: str,
    x: jax.Array,
    heads: int,
    eps: float,
    act: Activation,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Attention pooling as SigLIP has it: one learned query looks at all tokens; [B, L, d] -> [B, d]."""
    width = x.shape[-1]
    weights, biases = params[f"{at}.attention.in_proj_weight"], params[f"{at}.attention.in_proj_bias"]
    probe = jnp.broadcast_to(params[f"{at}.probe"].reshape(1, 1, width), (len(x), 1, width))
    query, key, value = (
        matmul(tokens, weights[n * width : (n + 1) * width].T, biases[n * width : (n + 1) * width])
        for n, tokens in enumerate((probe, x, x))
    )
    y = linear(params, f"{at}.attention.out_proj", attention(query, key, value, heads, mask))
    y = y + mlp(params, f"{at}.mlp", layer_norm(params, f"{at}.layernorm", y, eps), act)
    return y[:, 0]


def pooled(x: jax.Array, pool: str, special: int) -> jax.Array:
    """`cls`: the first token; `mean`: of all after the `special` first ones; `cls+mean`: both. [B, L, d] -> [B, D]."""
    parts = {"cls": x[:, 0], "mean": jnp.mean(x[:, special:], axis=1)}
    return jnp.concatenate([parts[name] for name in pool.split("+")], axis=-1)


def resample_positions(table: np.ndarray, grid: tuple[int, int], *, antialias: bool) -> np.ndarray:
    """Positions for another grid, bicubic as torch computes it (which is not as `jax.image.resize` does).

    Args:
        table: [n * n, d].
        grid: rows and columns wanted.
        antialias: widens the kernel when shrinking; torch then also uses a = -0.5 instead of -0.75 and drops what
            lies beyond the edge instead of repeating the edge.

    Returns:
        float32 [rows * columns, d], the input itself when the grid stays.
    """
    side = round(len(table) ** 0.5)
    if grid == (side, side):
        return table
    down, across = (cubic_weights(side, wanted, antialias) for wanted in grid)
    square = table.astype(np.float64).reshape(side, side, -1)
    resampled = np.einsum("yi,xj,ijd->yxd", down, across, square, optimize=True)
    return resampled.reshape(grid[0] * grid[1], -1).astype(np.float32)


def cubic_weights(old: int, new: int, antialias: bool) -> np.ndarray:
    """float64 [new, old]: what each old sample adds to each new one."""
    at = (np.arange(new)[:, None] + 0.5) * old / new - 0.5
    if antialias:
        weights = _cubic((np.arange(old) - at) / max(old / new, 1.0), -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    taps = np.floor(at).astype(int) + np.arange(-1, 3)
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new)[:, None], np.clip(taps, 0, old - 1)), _cubic(taps - at, -0.75))
    return weights


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
