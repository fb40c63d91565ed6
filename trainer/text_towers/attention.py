"""Scaled attention of every query over every key."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    scale: float,
    mask: jax.Array | np.ndarray | None = None,
    bias: jax.Array | None = None,
) -> jax.Array:
    """softmax(scale * query @ key.T + bias) @ value, sums and softmax in float32.

    Args:
        query: [B, Q, heads, e], float32 or bfloat16, as the next two.
        key: [B, L, heads, e].
        value: [B, L, heads, e].
        scale: 1 / sqrt(e), or 1 where a family does not scale.
        mask: bool, broadcast to [B, heads, Q, L]; False is not looked at.
        bias: float32, broadcast to [B, heads, Q, L].

    Returns:
        [B, Q, heads * e] in the type of `value`.
    """
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores = product("bqhe,bkhe->bhqk", query, key) * scale
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    mixed = product("bhqk,bkhe->bqhe", nn.softmax(scores).astype(value.dtype), value).astype(value.dtype)
    return mixed.reshape(*mixed.shape[:2], -1)
