"""Devices in a ring, over which every slice of one side meets every slice of the other."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

Meet = Callable[[Any, Any, Any], tuple[Any, Any]]


def go_round(axis: str, guest: Any, stays: Any, travels: Any, meet: Meet) -> tuple[Any, Any]:
    """Sends each device's guest round the ring until every device has met each of them once; for use in `shard_map`.

    In every round a device hands guest and findings on to its right-hand neighbour, so that never more than one guest
    beside its own is with it, and after as many rounds as there are devices each is home again. Handing the guest on
    does not wait for the meeting: an accelerator may do both at once.

    Args:
        axis: the mesh axis.
        guest: tree of arrays that is only read, such as a slice of texts.
        stays: tree of arrays, what a device gathers of its own slice from all guests.
        travels: tree of arrays, what is gathered of the guest from all devices.
        meet: (guest, stays, travels) -> stays and travels after they met.

    Returns:
        stays, and the travels of the device's own guest, both complete.
    """
    devices = lax.axis_size(axis)
    to_the_right = [(i, (i + 1) % devices) for i in range(devices)]

    def hand_on(tree: Any) -> Any:
        return jax.tree.map(lambda x: lax.ppermute(x, axis, to_the_right), tree)

    def one_round(_: Any, state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        guest, stays, travels = state
        arriving = hand_on(guest)
        stays, travels = meet(guest, stays, travels)
        return arriving, stays, hand_on(travels)

    _, stays, travels = lax.fori_loop(0, devices, one_round, (guest, stays, travels))
    return stays, travels
