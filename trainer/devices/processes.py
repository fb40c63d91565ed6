"""The processes of a run: on one host or many, each with devices of its own, all taking the same steps."""

import os
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_STOP = "lit-train/stop-after"


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

    def stop_after(self, done: int, asked: bool) -> int | None:
        """After which step all processes stop; None while none was asked to.

        A signal reaches the processes between different steps. The one that was asked names a step that none can be
        past: the metrics of a step, which need all processes, are awaited before the second step after it begins.

        Args:
            done: the step this process has begun last.
            asked: whether this process was asked to stop.

        Returns:
            The step, the same in all processes.
        """
        if self.count == 1:
            return done if asked else None
        client = _client()
        if asked:
            try:
                client.key_value_set(_STOP, str(done + 2))
            except Exception as error:  # the client's own class; another process was quicker
                if "ALREADY_EXISTS" not in str(error):
                    raise
        try:
            return int(client.key_value_try_get(_STOP))
        except Exception as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None

    def leave(self) -> None:
        """Part from the others; the coordinator waits for all."""
        if self._met:
            jax.distributed.shutdown()
            self._met = False


def _client() -> Any:
    from jax._src.distributed import global_state  # the only way to its key-value store

    assert global_state.client is not None
    return global_state.client


def _number(name: str, given: int | None) -> int | None:
    if given is not None:
        return given
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdigit():
        raise ValueError(f"{name}: must be a whole number, found {text!r}. Set it, or give the flag.")
    return int(text)
