"""Where the state of a run lies: whole on every device, or its large arrays in slices over the devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from trainer.devices.mesh import DATA

WORTH_CUTTING = 4096  # numbers in an array below which a slice of it saves less than fetching it costs


def place_of(mesh: Mesh, shape: tuple[int, ...], cut: bool) -> NamedSharding:
    """Where one array of the state lies.

    Args:
        mesh: of the run's devices.
        shape: of the array.
        cut: whether large arrays are cut: along their longest axis that the devices can share evenly.

    Returns:
        Its sharding; whole on every device where nothing can or need be cut.
    """
    devices = mesh.shape[DATA]
    axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
    if not cut or not axes or int(np.prod(shape)) < WORTH_CUTTING:
        return NamedSharding(mesh, P())
    longest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, P(*(DATA if axis == longest else None for axis in range(longest + 1))))


def places(mesh: Mesh, tree: Any, cut: bool) -> Any:
    """`place_of` every array of a tree of arrays or of their shapes."""
    return jax.tree.map(lambda leaf: place_of(mesh, leaf.shape, cut), tree)


def make_in_place(make: Callable[[Any], Any], start: Any, mesh: Mesh | None, cut: bool) -> Any:
    """`make(start)`, computed where its arrays are to lie, so that no device need hold it whole when it is cut.

    Args:
        make: a function of arrays; the same in all processes.
        start: tree of NumPy arrays.
        mesh: of the run's devices; None: one.
        cut: as for `place_of`.
    """
    if mesh is None:
        return make(start)
    shapes = jax.eval_shape(make, start)
    return jax.jit(make, out_shardings=places(mesh, shapes, cut))(start)


def bytes_on_a_device(tree: Any) -> int:
    """What a tree of arrays, or of shapes with a sharding, takes on one device."""
    return sum(_slice_size(leaf) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _slice_size(leaf: Any) -> int:
    sharding = getattr(leaf, "sharding", None)
    return int(np.prod(leaf.shape if sharding is None else sharding.shard_shape(leaf.shape), dtype=np.int64))
