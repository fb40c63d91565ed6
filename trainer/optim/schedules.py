"""Learning-rate schedules: the factor of each update, from 1.

With T total steps, w of warm-up, c of cooldown and k the number of updates already made,

    progress = clip((k - w) / (T - w), 0, 1)
    cosine    (1 + cos(pi progress)) / 2
    linear    end + (1 - end) (1 - progress)
    poly      end + (1 - end) (1 - progress)^power
    rsqrt     1 / sqrt(1 + (max(k - w, 0) + shift) / timescale), whatever T
    stair     multipliers[n - 1] where n of the given steps are at most k; 1 before the first

times min(1, k / w) where there is a warm-up, times min(1, (T - k) / c) where there is a cooldown. So with a warm-up the
very first update is zero, as in the reference.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

ScheduleName = Literal["cosine", "linear", "poly", "rsqrt", "stair"]
Schedule = Callable[[ArrayLike], Array]


def schedule(
    name: ScheduleName,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    cooldown_steps: int = 0,
    end: float = 0.0,
    power: float = 2.0,
    timescale: float = 10_000.0,
    shift: float = 0.0,
    stair_steps: Sequence[int] = (),
    stair_multipliers: Sequence[float] = (),
) -> Schedule:
    """Makes the factor of update k as a function of k.

    Args:
        name: "cosine", "linear", "poly", "rsqrt" or "stair"; stair without steps is a constant.
        total_steps: T, the updates of the whole run.
        warmup_steps: w, of linear rise from 0; less than T.
        cooldown_steps: c, of linear fall to 0 at T.
        end: where linear and poly end.
        power: of poly.
        timescale: of rsqrt, in steps.
        shift: of rsqrt, in steps.
        stair_steps: ascending; the n-th multiplier holds once stair_steps[n] updates are made.
        stair_multipliers: one per stair step.

    Returns:
        A function of k, int [] or [...], to float32 of the same shape; it may be traced.

    Raises:
        ValueError: for an unknown name, a warm-up not shorter than the run, or stairs that do not fit.
    """
    if total_steps < 1 or not 0 <= warmup_steps < total_steps or cooldown_steps < 0:
        raise ValueError(
            "a schedule must have 0 <= warmup_steps < total_steps and cooldown_steps >= 0; found "
            f"warmup_steps={warmup_steps}, total_steps={total_steps}, cooldown_steps={cooldown_steps}"
        )
    if len(stair_steps) != len(stair_multipliers) or sorted(stair_steps) != list(stair_steps):
        raise ValueError(
            "stair_steps must ascend and have one multiplier each; found "
            f"steps {list(stair_steps)}, multipliers {list(stair_multipliers)}"
        )

    def polynomial(power: float) -> Schedule:
        return lambda k: end + (1 - end) * (1 - _progress(k, total_steps, warmup_steps)) ** power

    def cosine(k: ArrayLike) -> Array:
        return 0.5 * (1 + jnp.cos(math.pi * _progress(k, total_steps, warmup_steps)))

    def rsqrt(k: ArrayLike) -> Array:
        since = jnp.maximum(jnp.asarray(k, jnp.float32) - warmup_steps, 0) + shift
        return 1 / jnp.sqrt(1 + since / timescale)

    def stair(k: ArrayLike) -> Array:
        passed = jnp.searchsorted(jnp.asarray(stair_steps, jnp.int32), jnp.asarray(k), side="right")
        return jnp.asarray((1.0, *stair_multipliers), jnp.float32)[passed]

    shapes: dict[str, Schedule] = {
        "cosine": cosine,
        "linear": polynomial(1.0),
        "poly": polynomial(power),
        "rsqrt": rsqrt,
        "stair": stair,
    }
    if name not in shapes:
        raise ValueError(f"schedule: must be one of {', '.join(shapes)}; found {name!r}")
    shape = shapes[name]

    def factor(k: ArrayLike) -> Array:
        step = jnp.asarray(k, jnp.float32)
        value = shape(k)
        if warmup_steps:
            value = value * jnp.minimum(1.0, step / warmup_steps)
        if cooldown_steps:
            value = value * jnp.clip((total_steps - step) / cooldown_steps, 0.0, 1.0)
        return value

    return factor


def _progress(k: ArrayLike, total_steps: int, warmup_steps: int) -> Array:
    step = jnp.asarray(k, jnp.float32)
    return jnp.clip((step - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)


def duration_in_steps(
    *,
    steps: float | None = None,
    examples: float | None = None,
    epochs: float | None = None,
    fraction: float | None = None,
    total_steps: int = 0,
    batch_size: int = 1,
    data_size: int = 0,
) -> int:
    """A duration in steps, given in exactly one unit; rounded to nearest, at least 1 unless it is 0.

    Args:
        steps: updates.
        examples: pairs seen, divided by batch_size.
        epochs: passes over data_size pairs.
        fraction: of total_steps, from 0 to 1.
        total_steps: of the run, for a fraction.
        batch_size: pairs in an update, for examples and epochs.
        data_size: pairs in the data set, for epochs.

    Returns:
        The number of steps.

    Raises:
        ValueError: unless exactly one unit is given, or where a fraction is outside [0, 1].
    """
    if sum(unit is not None for unit in (steps, examples, epochs, fraction)) != 1:
        raise ValueError("a duration must be given in exactly one of steps, examples, epochs, fraction")
    if fraction is not None and not 0 <= fraction <= 1:
        raise ValueError(f"a fraction of the run must lie in [0, 1]; found {fraction}")
    if steps is not None:
        exact = float(steps)
    elif examples is not None:
        exact = examples / batch_size
    elif epochs is not None:
        exact = epochs * data_size / batch_size
    else:
        exact = (fraction or 0.0) * total_steps
    return max(round(exact), 1) if exact else 0
