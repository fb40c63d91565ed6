"""The reference's Adafactor, to the last rounding: optax's factored second moment with the reference's own momentum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class MomentumState(NamedTuple):
    """average: the tree of running averages, bfloat16."""

    average: Any


def bfloat16_momentum(decay: float) -> optax.GradientTransformation:
    """m <- bfloat16(decay) m + (1 - decay) u; the update is m before it is rounded to bfloat16 and stored.

    The decay is itself rounded to bfloat16, 0.9 to 0.8984375, and the share of the new update is not: this is what the
    reference's compiled step computes. `optax.ema` with a bfloat16 accumulator says the same only under some compilers'
    freedom with precision, so it is spelled out here. There is no bias correction: the first update is a tenth of u.

    Args:
        decay: of the average, as the reference writes it: 0.9.

    Returns:
        A transformation with half the memory of a float32 momentum.
    """
    rounded = float(jnp.bfloat16(decay))

    def init(params: Any) -> MomentumState:
        return MomentumState(jax.tree.map(lambda p: jnp.zeros_like(p, jnp.bfloat16), params))

    def update(updates: Any, state: MomentumState, params: Any = None) -> tuple[Any, MomentumState]:
        del params

        def average(u: jax.Array, m: jax.Array) -> jax.Array:
            return rounded * m.astype(jnp.float32) + (1.0 - decay) * u

        new = jax.tree.map(average, updates, state.average)
        return new, MomentumState(jax.tree.map(lambda m: m.astype(jnp.bfloat16), new))

    return optax.GradientTransformation(init, update)


def scale_by_reference_adafactor(
    momentum: float | None = 0.9, beta2_cap: float = 0.999, clipping_threshold: float | None = None
) -> optax.GradientTransformation:
    """The reference's Adafactor: a factored second moment with capped decay, then a bfloat16 momentum.

    beta2 of update k (from 0) is min(cap, 1 - (k + 1)^-0.8); leaves whose two largest axes are both at least 32 are
    factored over those two. No relative step size, no scaling by the parameter's norm.

    Args:
        momentum: decay of `bfloat16_momentum`, or None for none.
        beta2_cap: largest decay of the second moment.
        clipping_threshold: largest root mean square of a leaf's update, or None.

    Returns:
        The transformation; its `update` needs the parameters.
    """
    parts = [
        optax.scale_by_factored_rms(
            min_dim_size_to_factor=32,
            decay_rate=0.8,
            epsilon=1e-30,
            decay_rate_fn=lambda k, power: jnp.minimum(beta2_cap, 1.0 - (k + 1.0) ** -power),
        )
    ]
    if clipping_threshold is not None:
        parts.append(optax.clip_by_block_rms(clipping_threshold))
    if momentum is not None:
        parts.append(bfloat16_momentum(momentum))
    return optax.chain(*parts)
