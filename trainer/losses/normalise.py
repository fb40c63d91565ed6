"""L2 normalisation with the reference's epsilon, safe at the zero vector."""

import jax.numpy as jnp
from jax import Array

EPSILON = 1e-8


def l2_normalise(x: Array) -> Array:
    """Scales every vector of the last axis to length one: z = x / (||x|| + 1e-8).

    The forward value is the reference's. Its gradient is not a number at x = 0, which a zero-initialised head
    reaches on the first step; here the gradient at x = 0 is defined as 0, in forward and in reverse mode.

    Args:
        x: any float dtype [..., D], not normalised.

    Returns:
        float32 [..., D]; a zero vector stays zero.
    """
    x = x.astype(jnp.float32)
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    is_zero = squared == 0
    # Both branches of a `where` are differentiated, so the square root must never see the zero.
    norm = jnp.sqrt(jnp.where(is_zero, 1.0, squared))
    return jnp.where(is_zero, 0.0, x / (norm + EPSILON))
