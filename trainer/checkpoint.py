"""Checkpoints of the whole training state: saved in the background, checked when they are read."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from trainer.array_sum import describe
from trainer.step import TrainState

# Reading damaged files raises whatever the layer that stumbled raises: JSON, zarr, tensorstore, our own check.
_DAMAGE = (Exception,)

ITEMS = ("params", "opt_state", "average")


class OtherState(ValueError):
    """A whole checkpoint, of another structure than the state that is to be restored."""


class Checkpoints:
    """The checkpoints of one run: the last few steps, each a folder named by its step.

    A save is atomic: a run that is killed in the middle of one finds the checkpoint before it. Checksums of
    all arrays lie beside them, so that one that was altered later is not taken for whole. Several processes write
    together, each the slices it holds, to a folder that all of them see.

    Args:
        folder: made if need be.
        keep: how many of the last stay.
        all_agree: whether something holds in all processes, asked in all of them at once.
    """

    def __init__(
        self, folder: Path, keep: int = 3, all_agree: Callable[[bool], bool] = lambda holds: holds
    ) -> None:
        self._folder, self._all_agree = folder.absolute(), all_agree
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def steps(self) -> list[int]:
        """The steps there are, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState) -> None:
        """Begin to write the state under its own step; a step that is there already stays as it is."""
        step = int(state.step)
        if step in self.steps():
            return
        # The next step is given this state's buffers to reuse while the writer still reads them: write copies.
        arrays = _copies(_items(state))
        facts = {name: describe(tree) for name, tree in arrays.items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{name: ocp.args.StandardSave(tree) for name, tree in arrays.items()},
                arrays=ocp.args.JsonSave(facts),
            ),
        )

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest state that is whole, or None when there is no checkpoint yet.

        Damaged ones met on the way are moved to `checkpoints-damaged` beside the folder, and named.

        Args:
            like: a state of the same structure and shapes.

        Raises:
            ValueError: there are checkpoints, and none is whole; nothing is moved then.
            OtherState: the newest readable one holds other arrays than `like`.
        """
        damaged: dict[int, Exception] = {}
        for step in reversed(self.steps()):
            state, cause = self._try(step, like)
            if not self._all_agree(cause is None):
                damaged[step] = cause or ValueError("another process could not read it")
                continue
            assert state is not None
            for other, cause in damaged.items():
                self._set_aside(other, cause)
            return state
        if damaged:
            raise ValueError(
                f"{self._folder}: at least one checkpoint must be whole, found {len(damaged)} damaged"
                f" ({_first_line(next(iter(damaged.values())))}). Train anew with another --output."
            )
        return None

    def close(self) -> None:
        """Wait until everything is on the disk."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _try(self, step: int, like: TrainState) -> tuple[TrainState | None, Exception | None]:
        """The state of a step, or why it cannot be read."""
        try:
            return self._restore(step, like), None
        except OtherState:
            raise
        except _DAMAGE as error:
            return None, error

    def _restore(self, step: int, like: TrainState) -> TrainState:
        expected = self._manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.JsonRestore()))[
            "arrays"
        ]
        wanted = _items(like)
        for name, tree in wanted.items():
            _check_shapes(step, tree, expected.get(name, {}))
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
            ),
        )
        for name in wanted:
            _check(found[name], expected[name])
        number = jax.device_put(jnp.asarray(step, jnp.int32), like.step.sharding)
        return TrainState(found["params"], found["opt_state"], number, found.get("average"))

    def _set_aside(self, step: int, error: Exception) -> None:
        aside = self._folder.with_name(f"{self._folder.name}-damaged")
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            shutil.rmtree(aside / str(step), ignore_errors=True)
            (self._folder / str(step)).rename(aside / str(step))
        self._all_agree(True)  # none looks before it is moved
        self._manager.reload()
        print(
            f"checkpoint {step} is damaged ({_first_line(error)}); moved to {aside / str(step)},"
            " falling back to the one before"
        )


def read_params(folder: Path, step: int | None = None, item: str = "params") -> tuple[int, dict[str, Any]]:
    """Read the trained parameters of a checkpoint without knowing their structure.

    Args:
        folder: the run's `checkpoints`.
        step: which one; the newest whole one unless given.
        item: "params", or "average" for the running average of them.

    Returns:
        The step, and nested dicts of numpy arrays.

    Raises:
        ValueError: there is no such checkpoint, or it is damaged.
    """
    # Items without a handler are warned about, though nobody asked for them.
    handlers: dict[str, Any] = {name: ocp.StandardCheckpointHandler() for name in (*ITEMS, item)}
    handlers["arrays"] = ocp.JsonCheckpointHandler()
    with ocp.CheckpointManager(folder.absolute(), item_handlers=handlers) as manager:
        steps = sorted(manager.all_steps())
        if not steps or (step is not None and step not in steps):
            wanted = "a checkpoint" if step is None else f"step {step}"
            found = ", ".join(map(str, steps)) or "none"
            raise ValueError(f"{folder}: must hold {wanted}, found steps: {found}.")
        damaged = []
        for candidate in reversed(steps) if step is None else [step]:
            try:
                whole = ocp.args.StandardRestore(_on_one_device(manager.item_metadata(candidate)[item]))
                found = manager.restore(
                    candidate, args=ocp.args.Composite(**{item: whole}, arrays=ocp.args.JsonRestore())
                )
                _check(found[item], found["arrays"][item])
            except _DAMAGE:
                damaged.append(candidate)
                continue
            if damaged:
                print(f"{folder}: steps {damaged} are damaged; reading step {candidate}")
            return candidate, jax.tree.map(np.asarray, found[item])
    raise ValueError(f"{folder}: checkpoint {damaged} must be whole, found damaged. Give another step.")


def _on_one_device(saved: Any) -> Any:
    """The shapes of saved arrays, to lie on one device here, wherever they lay."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=here), saved.tree)


def _items(state: TrainState) -> dict[str, Any]:
    """What of a state is saved, by its name in the checkpoint."""
    found = {name: getattr(state, name) for name in ITEMS}
    return {name: tree for name, tree in found.items() if tree is not None}


@jax.jit
def _copies(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _check(tree: Any, expected: dict[str, dict[str, Any]]) -> None:
    found = describe(tree)
    if wrong := [name for name in expected if found.get(name) != expected[name]]:
        raise ValueError(f"checksums differ for {len(wrong)} arrays, such as {wrong[0]}")


def _check_shapes(step: int, like: Any, expected: dict[str, dict[str, Any]]) -> None:
    leaves, _ = jax.tree_util.tree_flatten_with_path(like)
    ours = {jax.tree_util.keystr(path): list(np.shape(leaf)) for path, leaf in leaves}
    theirs = {name: facts["shape"] for name, facts in expected.items()}
    wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if wrong:
        name = wrong[0]
        raise OtherState(
            f"checkpoint {step}: must hold the arrays this command trains, found {len(wrong)} that differ, such as"
            f" {name}: {theirs.get(name, 'absent')} instead of {ours.get(name, 'none')}. Resume with the release"
            " that wrote it, or train anew with another --output."
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
