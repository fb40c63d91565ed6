"""Checkpoints of the whole training state: saved in the background, checked when they are read."""

import shutil
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from trainer.step import TrainState

# Reading damaged files raises whatever the layer that stumbled raises: JSON, zarr, tensorstore, our own check.
_DAMAGE = (Exception,)


class OtherState(ValueError):
    """A whole checkpoint, of another structure than the state that is to be restored."""


class Checkpoints:
    """The checkpoints of one run: the last few steps, each a folder named by its step.

    A save is atomic: a run that is killed in the middle of one finds the checkpoint before it. Checksums of
    all arrays lie beside them, so that one that was altered later is not taken for whole.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self._folder = folder.absolute()
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
        arrays = jax.tree.map(jnp.copy, {"params": state.params, "opt_state": state.opt_state})
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(arrays["params"]),
                opt_state=ocp.args.StandardSave(arrays["opt_state"]),
                arrays=ocp.args.JsonSave({name: _describe(tree) for name, tree in arrays.items()}),
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
            try:
                state = self._restore(step, like)
            except OtherState:
                raise
            except _DAMAGE as error:
                damaged[step] = error
                continue
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

    def _restore(self, step: int, like: TrainState) -> TrainState:
        expected = self._manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.JsonRestore()))[
            "arrays"
        ]
        for name, tree in (("params", like.params), ("opt_state", like.opt_state)):
            _check_shapes(step, tree, expected[name])
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(like.params),
                opt_state=ocp.args.StandardRestore(like.opt_state),
            ),
        )
        for name in ("params", "opt_state"):
            _check(found[name], expected[name])
        return TrainState(found["params"], found["opt_state"], jnp.asarray(step, jnp.int32))

    def _set_aside(self, step: int, error: Exception) -> None:
        aside = self._folder.with_name(f"{self._folder.name}-damaged")
        aside.mkdir(exist_ok=True)
        shutil.rmtree(aside / str(step), ignore_errors=True)
        (self._folder / str(step)).rename(aside / str(step))
        self._manager.reload()
        print(
            f"checkpoint {step} is damaged ({_first_line(error)}); moved to {aside / str(step)},"
            " falling back to the one before"
        )


def read_params(folder: Path, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """Read the trained parameters of a checkpoint without knowing their structure.

    Args:
        folder: the run's `checkpoints`.
        step: which one; the newest whole one unless given.

    Returns:
        The step, and nested dicts of numpy arrays.

    Raises:
        ValueError: there is no such checkpoint, or it is damaged.
    """
    with ocp.CheckpointManager(folder.absolute()) as manager:
        steps = sorted(manager.all_steps())
        if not steps or (step is not None and step not in steps):
            wanted = "a checkpoint" if step is None else f"step {step}"
            found = ", ".join(map(str, steps)) or "none"
            raise ValueError(f"{folder}: must hold {wanted}, found steps: {found}.")
        damaged = []
        for candidate in reversed(steps) if step is None else [step]:
            try:
                found = manager.restore(
                    candidate,
                    args=ocp.args.Composite(params=ocp.args.StandardRestore(), arrays=ocp.args.JsonRestore()),
                )
                _check(found["params"], found["arrays"]["params"])
            except _DAMAGE:
                damaged.append(candidate)
                continue
            if damaged:
                print(f"{folder}: steps {damaged} are damaged; reading step {candidate}")
            return candidate, jax.tree.map(np.asarray, found["params"])
    raise ValueError(f"{folder}: checkpoint {damaged} must be whole, found damaged. Give another step.")


def _describe(tree: Any) -> dict[str, dict[str, Any]]:
    """Shape and crc32 of the bytes of each array, by its path in the tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path): {
            "shape": list(np.shape(leaf)),
            "crc32": zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data),
        }
        for path, leaf in leaves
    }


def _check(tree: Any, expected: dict[str, dict[str, Any]]) -> None:
    found = _describe(tree)
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
