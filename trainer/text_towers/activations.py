"""The activations by the names configurations give them."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Activation = Callable[[jax.Array], jax.Array]


def _in_float32(activation: Activation) -> Activation:
    """The activation computed in float32 and rounded once, whatever it is given and gives back."""
    return lambda x: activation(x.astype(jnp.float32)).astype(x.dtype)


def _gelu(x: jax.Array) -> jax.Array:
    """x (1 + erf(x / sqrt(2))) / 2, as torch computes it; JAX's own takes the slower erfc."""
    return x * 0.5 * (1 + lax.erf(x * 0.5**0.5))


tanh_gelu = _in_float32(nn.gelu)

ACTIVATIONS: dict[str, Activation] = {
    "gelu": _in_float32(_gelu),
    "gelu_new": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "quick_gelu": _in_float32(lambda x: x * nn.sigmoid(1.702 * x)),
    "relu": nn.relu,
}


def check_activation(name: str) -> None:
    """Raises ValueError, listing the known ones, for another name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: must be one of {sorted(ACTIVATIONS)}, found {name!r}.")
