"""Matrix products of tokens, in the form that each platform computes fastest, with their gradients.

Accelerators get them as they are written. On processors a product of bfloat16 is asked for in float32 and then rounded:
only such a product reaches the processor's own bfloat16 instructions (AMX, AVX512-BF16); one asked for in bfloat16 is
computed from operands converted to float32. The sums are the same, rounded once; so it is backwards.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

LAST_BY_FIRST = (((1,), (0,)), ((), ()))
LAST_BY_LAST = (((1,), (1,)), ((), ()))


def dot_general(
    lhs: jax.Array,
    rhs: jax.Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
    **options: Any,
) -> jax.Array:
    """`lax.dot_general`, as a layer of Flax takes it: the last axes of lhs by the first of rhs."""
    plain: Callable[..., jax.Array] = partial(
        lax.dot_general,
        dimension_numbers=dimension_numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
        **options,
    )
    if preferred_element_type is not None or lhs.dtype != jnp.bfloat16 or rhs.dtype != jnp.bfloat16:
        return plain(lhs, rhs)
    (_, kernel_axes), _ = dimension_numbers
    on_processors = partial(_flattened, contracted=len(kernel_axes))
    return lax.platform_dependent(lhs, rhs, cpu=on_processors, default=plain)


Dense = partial(nn.Dense, dot_general=dot_general)
DenseGeneral = partial(nn.DenseGeneral, dot_general=dot_general)


def _flattened(lhs: jax.Array, rhs: jax.Array, contracted: int) -> jax.Array:
    rows, columns = lhs.shape[: lhs.ndim - contracted], rhs.shape[contracted:]
    inner = math.prod(rhs.shape[:contracted])
    return _product(lhs.reshape(-1, inner), rhs.reshape(inner, -1)).reshape(*rows, *columns)


def laid_out(params: Any) -> Any:
    """Parameters for many calls without gradients: kernels of two axes as bfloat16 [out, in].

    So processors multiply fastest where no gradient is taken, and nothing is cast or turned at every call.

    Args:
        params: nested dict of arrays; leaves called `kernel` multiply tokens, but for those under `head`.
    """
    return _kernels(lambda kernel: kernel.astype(jnp.bfloat16).T, params)


def as_trained(params: Any) -> Any:
    """What `laid_out` gave, with every kernel [in, out] again for the modules."""
    return _kernels(jnp.transpose, params)


def _kernels(change: Callable[[jax.Array], jax.Array], params: Any) -> Any:
    def leaf(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        multiplies = path[-1].key == "kernel" and path[0].key != "head"
        return change(leaf) if multiplies and leaf.ndim == 2 else leaf

    return jax.tree_util.tree_map_with_path(leaf, params)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """bfloat16 [N, K] @ [K, M] -> [N, M], where no gradient is taken: by rows, see `laid_out`."""
    # Without the barrier the product is turned back, and computed in float32.
    x, rows = lax.optimization_barrier((x, kernel.T))
    return _rounded(x, rows, LAST_BY_LAST)


def _forwards(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _summed_in_float32(x, kernel), (x, kernel)


def _backwards(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return _summed_in_float32(gradient, kernel.T), _summed_in_float32(x.T, gradient)


_product.defvjp(_forwards, _backwards)


def _summed_in_float32(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _rounded(x, kernel, LAST_BY_FIRST)


def _rounded(x: jax.Array, y: jax.Array, dimensions: Any) -> jax.Array:
    return lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32).astype(x.dtype)
