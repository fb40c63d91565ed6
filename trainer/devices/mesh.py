"""The devices of a run in a row: each holds a slice of the batch and a copy of what trains."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from trainer.microbatch import EmbedText

DATA = "data"  # the mesh axis that the rows of a batch lie along


def data_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """The devices along one axis, `DATA`."""
    return Mesh(np.array(devices), (DATA,))


def mesh_of(devices: int | None, batch_size: int) -> Mesh | None:
    """The mesh of a run: the devices of all processes, those of one beside each other.

    Args:
        devices: how many of each process; None: all.
        batch_size: B.

    Returns:
        None where one device does it all.

    Raises:
        ValueError: a process has fewer, or they cannot share the batch evenly.
    """
    there = [
        [device for device in jax.devices() if device.process_index == process]
        for process in range(jax.process_count())
    ]
    fewest = min(map(len, there))
    wanted = fewest if devices is None else devices
    if wanted > fewest:
        raise ValueError(
            f"devices: must be at most the {fewest} of this machine, found {wanted}. Set --devices {fewest}."
        )
    if wanted * len(there) == 1:
        return None
    mesh = data_mesh([device for own in there for device in own[:wanted]])
    check_rows(mesh, batch_size)
    return mesh


def deal_out(mesh: Mesh | None, batch: Any) -> Any:
    """A batch on the devices of the mesh, each holding its rows.

    Args:
        mesh: None: the batch stays as it is.
        batch: tree of NumPy arrays, the rows of this process alone.
    """
    if mesh is None:
        return batch
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(along_rows(mesh), rows), batch)


def along_rows(mesh: Mesh) -> NamedSharding:
    """Device i of n holds rows i B/n to (i + 1) B/n of an array [B, ...]."""
    return NamedSharding(mesh, P(DATA))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole."""
    return NamedSharding(mesh, P())


def lying(where: NamedSharding, shapes: Any) -> Any:
    """A tree of shapes, each with the place its array is to lie in."""
    return jax.tree.map(lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=where), shapes)


def check_rows(mesh: Mesh, rows: int) -> None:
    """Check that a batch can be dealt out evenly.

    Raises:
        ValueError: the number of devices does not divide it.
    """
    devices = mesh.shape[DATA]
    if rows % devices:
        more = rows + devices - rows % devices
        raise ValueError(
            f"batch_size: must be a multiple of the {devices} devices, which share it evenly; found {rows}."
            f" Set --batch-size {more}, or --devices to a number that divides {rows}."
        )


def on_each(mesh: Mesh, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` on every device's own slice, collectives over `DATA` allowed.

    What leaves as P() must be the same on all devices: that is the function's duty and not checked, since the check
    does not follow values through loops such as the loss's.
    """
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def over_devices(embed: EmbedText, mesh: Mesh) -> EmbedText:
    """The same function and the same gradient, each device embedding its own rows.

    Args:
        embed: must take a row_offset, so that dropout masks do not depend on the number of devices.
        mesh: with the axis `DATA`; its size must divide B.

    Returns:
        What may be called like `embed`, on text whose rows lie along the mesh. Parameter gradients are summed over the
        devices.
    """

    def local(params: Any, text: Array, key: Array, row_offset: Array) -> Array:
        return embed(params, text, key, row_offset + lax.axis_index(DATA) * text.shape[0])

    spread = on_each(mesh, local, (P(), P(DATA), P(), P()), P(DATA))

    def embed_batch(params: Any, text: Array, key: Array, row_offset: Array | int = 0, /) -> Array:
        return spread(params, text, key, jnp.asarray(row_offset, jnp.int32))

    return embed_batch
