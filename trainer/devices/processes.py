"""The processes of a run: on one host or many, each with devices of its own, all taking the same steps."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


@dataclass(frozen=True)
class ProcessConfig:
    """How several processes, one or more on each host, find each other; each is started with the same flags."""

    coordinator: str | None = None
    """Address host:port of process 0, for a run over several processes; auto: as the cluster says (Slurm, TPU
    pods, Open MPI, Kubernetes). None: $JAX_COORDINATOR_ADDRESS, else this process is alone."""
    num_processes: int | None = None
    """How many processes there are; None: $JAX_NUM_PROCESSES."""
    process_id: int | None = None
    """Which of them this is, from 0, the one that writes logs; None: $JAX_PROCESS_ID."""

    def resolved(self) -> "ProcessConfig":
        """This with what is left out taken from the environment.

        Raises:
            ValueError: one of the three is missing, or they do not fit each other.
        """
        address = self.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
        count, number = (
            _number(name, value) for name, value in (("JAX_NUM_PROCESSES", self.num_processes),
                                                     ("JAX_PROCESS_ID", self.process_id))
        )  # fmt: skip
        if address == "auto":
            return ProcessConfig("auto")
        if not address:
            if self.num_processes is not None or self.process_id is not None:
                raise ValueError(
                    "coordinator: must be given with num_processes and process_id, found none. Set --coordinator"
                    " HOST:PORT, an address of process 0 that all processes reach, or --coordinator auto."
                )
            return ProcessConfig()
        if count is None or number is None or not 0 <= number < count:
            raise ValueError(
                f"process_id: with a coordinator, processes must be numbered from 0 to num_processes - 1, found"
                f" process_id {number} of num_processes {count}. Set --num-processes and --process-id, or"
                " --coordinator auto in a cluster that numbers them."
            )
        return ProcessConfig(address, count, number)


class Processes:
    """The processes of this run, once they have met; also where there is one.

    Attributes:
        count: how many there are.
        index: which of them this is, from 0.
    """

    def __init__(self, config: ProcessConfig) -> None:
        """Meet the others: returns in all processes once all are there.

        Raises:
            ValueError: the configuration does not say who they are, or they do not come.
        """
        config = config.resolved()
        self._met = config.coordinator is not None
        if config.coordinator is not None:
            jax.config.update("jax_cpu_collectives_implementation", "gloo")  # no effect on accelerators
            address = None if config.coordinator == "auto" else config.coordinator
            try:
                jax.distributed.initialize(address, config.num_processes, config.process_id)
            except RuntimeError as error:
                raise ValueError(
                    f"coordinator: all processes must reach {config.coordinator}, found: {str(error).splitlines()[0]}"
                    " Start each of them, and check address and port."
                ) from None
        self.count, self.index = jax.process_count(), jax.process_index()
        self._votes: jax.Array | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks for all."""
        return self.index == 0

    def rows(self, batch_size: int) -> slice:
        """This process's slice of a batch.

        Raises:
            ValueError: the processes cannot share the batch evenly.
        """
        if batch_size % self.count:
            more = batch_size + self.count - batch_size % self.count
            raise ValueError(
                f"batch_size: must be a multiple of the {self.count} processes, which share it evenly; found"
                f" {batch_size}. Set --batch-size {more}."
            )
        each = batch_size // self.count
        return slice(self.index * each, (self.index + 1) * each)

    def wait_for_all(self, why: str) -> None:
        """Return once every process has come to the same place."""
        if self.count > 1:
            multihost_utils.sync_global_devices(why)

    def all_agree(self, holds: bool) -> bool:
        """Whether something holds in all processes; each asks at the same place."""
        if self.count == 1:
            return holds
        return bool(multihost_utils.process_allgather(np.array(holds)).all())

    def fetch(self, tree: Any) -> Any:
        """The whole arrays of a tree in the memory of each process, as NumPy arrays, wherever they lie."""
        if self.count == 1:
            return jax.tree.map(np.asarray, tree)
        return jax.tree.map(
            lambda leaf: np.asarray(
                leaf if leaf.is_fully_replicated else multihost_utils.process_allgather(leaf, tiled=True)
            ),
            tree,
        )

    def all_stop(self, asked: bool) -> bool:
        """Whether all processes stop after the step they have begun last; each asks once after every step.

        A signal reaches the processes between different steps, so they vote. A vote is counted on the devices behind
        the step it was cast after, and looked at one step later, when it is there already: nobody waits for it.

        Args:
            asked: whether this process was asked to stop.

        Returns:
            The same in all processes.
        """
        if self.count == 1:
            return asked
        before, self._votes = self._votes, self._cast(asked)
        return before is not None and bool(np.asarray(before))

    def _cast(self, vote: bool) -> jax.Array:
        """Whether any process votes so: bool [], on its way."""
        voters, count = self._ballot
        own = np.full(jax.local_device_count(), vote)
        return count(jax.make_array_from_process_local_data(voters, own))

    @functools.cached_property
    def _ballot(self) -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
        """Where votes lie, one on each device, and how they are counted."""
        mesh = Mesh(np.array(jax.devices()), ("voters",))
        return NamedSharding(mesh, P("voters")), jax.jit(jnp.any, out_shardings=NamedSharding(mesh, P()))

    def leave(self) -> None:
        """Part from the others; the coordinator waits for all."""
        if self._met:
            jax.distributed.shutdown()
            self._met = False


def _number(name: str, given: int | None) -> int | None:
    if given is not None:
        return given
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdigit():
        raise ValueError(f"{name}: must be a whole number, found {text!r}. Set it, or give the flag.")
    return int(text)
