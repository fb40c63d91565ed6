"""Whether a set of tensors is the one a model asks for, all differences said at once."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp


def misfits(found: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What keeps `found` from being used as it is.

    Args:
        found: arrays, or anything with shape and dtype, by name.
        wanted: shapes by name.

    Returns:
        A line for each missing, surplus, mis-shaped or not floating-point tensor; empty when all fit.
    """
    problems = [f"missing: {name} {list(wanted[name])}" for name in wanted if name not in found]
    for name, tensor in found.items():
        if name not in wanted:
            problems.append(f"surplus: {name} {list(tensor.shape)}")
        elif tuple(tensor.shape) != tuple(wanted[name]):
            problems.append(f"shape: {name} must be {list(wanted[name])}, found {list(tensor.shape)}")
        elif not jnp.issubdtype(tensor.dtype, jnp.floating):
            problems.append(f"type: {name} must be floating point, found {tensor.dtype}")
    return problems


def refuse_misfits(found: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raises ValueError naming `source` and every line of `misfits`, if there is one."""
    problems = misfits(found, wanted)
    if problems:
        raise ValueError(
            f"{source}: tensors must be those of the configuration beside them, found:\n  "
            + "\n  ".join(problems)
        )
