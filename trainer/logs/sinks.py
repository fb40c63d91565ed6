"""Where the metrics of a step go besides the console."""

import json
import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

Record = Mapping[str, float]


class Sink(Protocol):
    """Takes the record of each logged step, in order of steps."""

    def write(self, step: int, record: Record) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """`metrics.jsonl`: one object a line; a value that is not finite is null.

    Args:
        path: of the file.
        first_step: lines of later steps are left over from a run that was cut off after its last checkpoint, and are
            dropped.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self._path = path
        _drop_lines_after(path, first_step)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def write(self, step: int, record: Record) -> None:
        self._file.write(json.dumps(finite(record)) + "\n")
        self._file.flush()

    def last(self) -> dict[str, Any]:
        """The last line, by this run or the one it goes on with; empty before the first."""
        lines = self._path.read_text(encoding="utf-8").splitlines()
        return json.loads(lines[-1]) if lines else {}

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """`tensorboard/`: the same as events; those of steps after `first_step` are superseded."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def write(self, step: int, record: Record) -> None:
        for name, value in record.items():
            if name != "step" and math.isfinite(value):
                self._writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run on Weights & Biases; a resumed run goes on with the same one, whose name is kept in `wandb-id`.

    Args:
        folder: the run's.
        project: to put it in.
        config: to show beside it.

    Raises:
        ValueError: the package wandb is not installed.
    """

    def __init__(self, folder: Path, project: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise ValueError(
                f"wandb: the package must be installed to log to project {project!r}, found none. Run `pip install"
                " wandb`, or leave out --wandb."
            ) from None
        file = folder / "wandb-id"
        if not file.is_file():
            file.write_text(secrets.token_hex(4), encoding="utf-8")
        self._run = wandb.init(
            project=project,
            id=file.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )

    def write(self, step: int, record: Record) -> None:
        self._run.log({f"train/{name}": value for name, value in finite(record).items()}, step=step)

    def close(self) -> None:
        self._run.finish()


def finite(record: Record) -> dict[str, float | None]:
    """The record with None for what is not finite: NaN is not JSON."""
    return {name: value if math.isfinite(value) else None for name, value in record.items()}


def _drop_lines_after(path: Path, step: int) -> None:
    """Keep the whole lines of steps up to `step`; rewritten aside, so that a kill loses nothing."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue  # the last line of a run that was killed while writing it
    aside = path.with_suffix(".tmp")
    aside.write_text("".join(kept), encoding="utf-8")
    aside.replace(path)
