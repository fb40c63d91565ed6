"""A checksum of an array's bits that is the same however the array lies over devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def array_sum(x: Array) -> Array:
    """The sum over elements of a hash of an element's bits and its place, modulo 2**32.

    Any one altered element alters it, but for one chance in four billion; the order of adding does not, so devices sum
    their own slices. Computed where the array lies: nothing is fetched.

    Args:
        x: any shape; bool, integer or float of at most 32 bits.

    Returns:
        uint32 [].
    """
    bits = x.astype(jnp.uint8) if x.dtype == bool else x
    bits = lax.bitcast_convert_type(bits, _UNSIGNED[bits.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * jnp.uint32(size % 2**32) + lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum(_mix(bits ^ _mix(place + jnp.uint32(0x9E3779B9))), dtype=jnp.uint32)


def _mix(x: Array) -> Array:
    """A bijection of 32 bits in which every bit of x reaches every bit (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def describe(tree: Any) -> dict[str, dict[str, Any]]:
    """Shape and checksum of each array, by its path in the tree; the same in all processes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    sums = _sums([leaf for _, leaf in leaves])
    return {
        jax.tree_util.keystr(path): {"shape": list(np.shape(leaf)), "sum": int(total)}
        for (path, leaf), total in zip(leaves, sums, strict=True)
    }


@jax.jit
def _sums(leaves: list[Any]) -> list[Array]:
    return [array_sum(jnp.asarray(leaf)) for leaf in leaves]
