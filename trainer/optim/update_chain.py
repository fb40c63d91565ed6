"""The chain of one update: clip, direction, decay, rates, schedule; applied to the leaves that move.

    adamw, lion            p <- p - f(k) m lr (u + wd p)          decay and update both scaled by the learning rate
    reference-adam,        p <- p - f(k) (m lr u + wd p)          decay scaled by the schedule alone, as the published
    reference-adafactor                                           LiT and SigLIP runs have it

with f the schedule, k the updates already made, m the leaf's multiplier, u the optimizer's direction after clipping
to a global norm. Rules name leaves by their path, "backbone/layer_0/query/kernel", with regular expressions that must
match the whole path; the first match wins. A frozen leaf takes no part in the norm, has no state and never moves.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from trainer.optim.modules import joined
from trainer.optim.reference_adafactor import scale_by_reference_adafactor
from trainer.optim.schedules import Schedule

OptimizerName = Literal["adamw", "lion", "reference-adam", "reference-adafactor"]
Rules = Sequence[tuple[str, float]]

KERNELS: Rules = ((".*/kernel", 1.0),)


def build_chain(
    optimizer: OptimizerName,
    params: Any,
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    factor: Schedule,
    clip_norm: float | None = None,
    rate_rules: Rules = ((".*", 1.0),),
    decay_rules: Rules = KERNELS,
    frozen: Sequence[str] = (),
    own_warmup: tuple[str, int] | None = None,
) -> optax.GradientTransformation:
    """The transformation of the module's equations, piece by piece.

    Args:
        optimizer: the direction u, and where the decay stands.
        params: the tree whose paths the rules are matched against.
        learning_rate: lr.
        beta1: of the momentum.
        beta2: of the second moment; for adafactor the cap of its growing decay.
        weight_decay: wd.
        factor: f, the schedule.
        clip_norm: the largest global norm over the leaves that move, or None.
        rate_rules: (pattern, m) per leaf; a leaf without a match has m = 1.
        decay_rules: (pattern, multiplier of wd) per leaf; a leaf without a match does not decay.
        frozen: patterns of the leaves that never move.
        own_warmup: (pattern, w): the leaves whose f(k) is multiplied by min(1, k / w) besides.

    Returns:
        The transformation.
    """
    moving = _by_path(params, lambda path: not any(re.fullmatch(pattern, path) for pattern in frozen))
    rates = _scale_leaves(_first_match(params, rate_rules, otherwise=1.0))
    decay = _add_decay(weight_decay, _first_match(params, decay_rules, otherwise=0.0))
    rate = [optax.scale(learning_rate), rates]
    steps = [
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        _direction(optimizer, beta1, beta2),
        *([*rate, decay] if optimizer.startswith("reference-") else [decay, *rate]),
        optax.scale_by_schedule(factor),
        *([] if own_warmup is None else [_own_warmup(params, *own_warmup)]),
        optax.scale(-1.0),
    ]
    resting = jax.tree.map(lambda moves: not moves, moving)
    return optax.chain(optax.masked(optax.chain(*steps), moving), optax.masked(optax.set_to_zero(), resting))


def _own_warmup(params: Any, pattern: str, steps: int) -> optax.GradientTransformation:
    rise = optax.scale_by_schedule(lambda k: jnp.minimum(1.0, k / steps))
    rising = _by_path(params, lambda path: re.fullmatch(pattern, path) is not None)
    return optax.masked(rise, lambda updates: _like(updates, rising))


def _direction(optimizer: OptimizerName, beta1: float, beta2: float) -> optax.GradientTransformation:
    if optimizer == "lion":
        return optax.scale_by_lion(beta1, beta2)
    if optimizer == "reference-adafactor":
        return scale_by_reference_adafactor(beta1, beta2)
    return optax.scale_by_adam(beta1, beta2)


def clamp(name: str, largest: float) -> optax.GradientTransformation:
    """Shortens the update of the top-level leaf `name` so that the parameter never ends above `largest`."""

    def update(updates: Any, params: Any) -> Any:
        room = jnp.asarray(largest - params[name], updates[name].dtype)
        return {**updates, name: jnp.minimum(updates[name], room)}

    return optax.stateless(update)


def _scale_leaves(multipliers: Any) -> optax.GradientTransformation:
    def update(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(lambda u, m: m * u, updates, _like(updates, multipliers))

    return optax.stateless(update)


def _add_decay(weight_decay: float, multipliers: Any) -> optax.GradientTransformation:
    def update(updates: Any, params: Any) -> Any:
        return jax.tree.map(
            lambda u, p, m: u + weight_decay * m * p if m else u, updates, params, _like(updates, multipliers)
        )

    return optax.stateless(update)


def _like(updates: Any, multipliers: Any) -> Any:
    """The multipliers of the leaves that move: under a mask the others are empty nodes, not leaves."""
    masked = optax.MaskedNode
    return jax.tree.map(
        lambda u, m: u if isinstance(u, masked) else m,
        updates,
        multipliers,
        is_leaf=lambda x: isinstance(x, masked),
    )


def _first_match(params: Any, rules: Rules, otherwise: float) -> Any:
    def value(path: str) -> float:
        return next((number for pattern, number in rules if re.fullmatch(pattern, path)), otherwise)

    return _by_path(params, value)


def _by_path(params: Any, value: Callable[[str], Any]) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: value(joined(path)), params)
