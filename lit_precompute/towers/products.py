"""Matrix products of tokens, in the form that each platform computes fastest.

Accelerators get them as they are written. On processors a product of bfloat16 is asked for in float32 and then rounded:
only such a product reaches the processor's own bfloat16 instructions (AMX, AVX512-BF16); one asked for in bfloat16 is
computed from operands converted to float32. The sums are the same, rounded once.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


def matmul(x: jax.Array, kernel: jax.Array, *, by_rows: bool = False) -> jax.Array:
    """[..., in] @ [in, out] -> [..., out], in their type; `by_rows`: the kernel is [out, in]."""
    dimensions = (((x.ndim - 1,), (int(by_rows),)), ((), ()))
    product = partial(lax.dot_general, dimension_numbers=dimensions)
    if x.dtype != jnp.bfloat16 or kernel.dtype != jnp.bfloat16:
        return product(x, kernel)
    return _by_platform(partial(_summed_in_float32, product), product, x, kernel)


def attention(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """softmax(query @ key.T / sqrt(e)) @ value, the softmax in float32.

    Args:
        query: [B, Q, heads, e].
        key, value: [B, L, heads, e], all of one type.
        mask: bool, broadcast to [B, heads, Q, L]; False is not looked at.

    Returns:
        [B, Q, heads, e].
    """
    plain = partial(jax.nn.dot_product_attention, mask=mask)
    return _by_platform(partial(_attention_on_processors, mask=mask), plain, query, key, value)


def _by_platform(
    on_processors: Callable[..., jax.Array], elsewhere: Callable[..., jax.Array], *arrays: jax.Array
) -> jax.Array:
    return lax.platform_dependent(*arrays, cpu=on_processors, default=elsewhere)


def _summed_in_float32(product: Callable[..., jax.Array], lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    lhs, rhs = lax.optimization_barrier((lhs, rhs))  # or kernels are laid out anew before a loop over chunks
    return product(lhs, rhs, preferred_element_type=jnp.float32).astype(lhs.dtype)


def _attention_on_processors(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None
) -> jax.Array:
    """Heads first, so that nothing is turned to columns; weights are divided by their sum after the product."""
    dtype, scale = value.dtype, query.shape[-1] ** -0.5
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))  # [B, heads, tokens, e]
    product = partial(lax.dot_general, preferred_element_type=jnp.float32)
    if dtype == jnp.float32:  # fewer products than to scale the scores, but another rounding in bfloat16
        query, scale = query * scale, 1.0
    scores = product(query, key, (((3,), (3,)), ((0, 1), (0, 1)))) * scale  # [B, heads, Q, L]
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    mixed = product(weights.astype(dtype), value, (((3,), (2,)), ((0, 1), (0, 1))))
    mixed /= jnp.sum(weights, axis=-1, keepdims=True)
    return mixed.astype(dtype).transpose(0, 2, 1, 3)
