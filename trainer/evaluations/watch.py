"""Evaluation while training: every so many steps a suite, and the best checkpoint kept."""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from schemas.storage import read_storage_options
from trainer.checkpoint import Checkpoints
from trainer.config import TrainConfig
from trainer.data.stores import OpenedStore, open_stores
from trainer.devices.processes import Processes
from trainer.evals import report
from trainer.evals.figures import figures, headline
from trainer.evaluations.subject import TextSide, open_subject
from trainer.evaluations.suite import attempt
from trainer.evaluations.suite_file import Entry, read_suite
from trainer.run_directory import LoadedRun, Provenance, best
from trainer.step import TrainState
from trainer.text_towers import TextTower

LINES = "evaluations.jsonl"
BEST = "best.json"


class Watch:
    """What evaluates a run while it trains; does nothing where the configuration asks for nothing.

    Writes a line per evaluation to `evaluations.jsonl`, TensorBoard events under `eval/`, the whole state that did
    best so far to `best/`, and what it did to `best.json`.

    Args:
        config: the run's, resolved.
        output: the run's folder.
        tower: the text tower before the first step; a frozen backbone is taken from it.
        provenance: of the run.
        processes: of the run; the first evaluates, all save what did best.
        first_step: steps done already; lines of later steps are left over from a run that was cut off, and are
            dropped.

    Raises:
        ValueError: there is nothing to evaluate on, or something of it cannot be opened: said before the first step.
    """

    def __init__(
        self,
        config: TrainConfig,
        output: Path,
        tower: TextTower,
        provenance: Provenance,
        first_step: int,
        processes: Processes,
    ) -> None:
        self._every, self._output, self._steps = config.eval_every, output, config.steps
        self._processes = processes
        self._measure, self._frozen = config.eval_best, tower.params
        if not self._every:
            return
        self._best = best(output)
        self._checkpoints = Checkpoints(output / "best", 1, processes.all_agree)
        self._events = None
        if processes.first:
            self._text = TextSide(_as_run(config, tower, provenance))
            self._entries = _entries(config, self._text)
            _keep_lines_up_to(output / LINES, first_step)
            self._events = _events(output / "tensorboard", first_step) if config.tensorboard else None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._every:
            self._checkpoints.close()
            if self._events is not None:
                self._events.close()

    def due(self, done: int) -> bool:
        """Whether to evaluate after `done` steps: every `eval_every`, and after the last."""
        return bool(self._every) and (done % self._every == 0 or done == self._steps)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Evaluates a state, writes down what came of it, and keeps the state if it is the best so far.

        Where a running average of the parameters is kept, it is what is evaluated.
        """
        step = int(state.step)
        params = self._processes.fetch(state.params if state.average is None else state.average)
        if not self._processes.first:
            if not self._processes.all_agree(True):
                self._keep(state, step, math.nan, {})
            return {}
        started = time.perf_counter()
        backbone = params.get("backbone", self._frozen["backbone"])
        text = self._text.at({"backbone": backbone, "head": params.get("head", {})}, step)
        found: dict[str, float] = {}
        errors: dict[str, str] = {}
        heads: list[float] = []
        for entry in self._entries:
            made, error = attempt(entry, str(self._output), text, None)
            if made is None:
                errors[entry.name] = error
                continue
            found |= {
                f"{entry.name}/{one.name.replace(' ', '_')}": round(one.value, 6) for one in figures(made)
            }
            heads.append(headline(made))
        measure = self._judge(found, heads, bool(errors))
        better = measure is not None and (self._best is None or measure > self._best["value"])
        # All others agree: they hear from this process alone whether the state is to be kept.
        if not self._processes.all_agree(not better) and measure is not None:
            self._keep(state, step, measure, found)
        self._write(step, found, errors, measure, better, time.perf_counter() - started)
        return found

    @property
    def best(self) -> dict[str, Any]:
        """For the run's summary: which step did best, and at what; empty where nothing was evaluated."""
        if not self._every or self._best is None:
            return {}
        return {"best_step": self._best["step"], "best": self._best["value"]}

    def _judge(self, found: Mapping[str, float], heads: list[float], failed: bool) -> float | None:
        """What checkpoints are compared by; None where it could not be measured."""
        if self._measure is None:
            return None if failed or not heads else sum(heads) / len(heads)
        if self._measure not in found and not failed:
            raise ValueError(
                f"--eval-best: must be one of {', '.join(found)}, found {self._measure}. The same command with another "
                "goes on from the last checkpoint."
            )
        return found.get(self._measure)

    def _keep(self, state: TrainState, step: int, measure: float, found: Mapping[str, float]) -> None:
        if self._best is not None and self._best["step"] >= step:  # orbax goes forward only
            self._checkpoints.close()
            if self._processes.first:
                shutil.rmtree(self._output / "best", ignore_errors=True)
            self._processes.wait_for_all("best is gone")
            self._checkpoints = Checkpoints(self._output / "best", 1, self._processes.all_agree)
        self._checkpoints.save(state)
        self._best = {
            "step": step,
            "value": measure,
            "measure": self._measure or "mean",
            "figures": dict(found),
        }
        if self._processes.first:
            report.write_report(self._best, str(self._output / BEST))

    def _write(
        self,
        step: int,
        found: Mapping[str, float],
        errors: Mapping[str, str],
        measure: float | None,
        better: bool,
        seconds: float,
    ) -> None:
        record: dict[str, Any] = {"step": step, **found, "measure": measure, "is_best": better}
        record |= {"seconds": round(seconds, 3)} | ({"errors": dict(errors)} if errors else {})
        with open(self._output / LINES, "a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        if self._events is not None:
            for name, value in found.items():
                self._events.add_scalar(f"eval/{name}", value, step)
            self._events.flush()
        for name, error in errors.items():
            print(f"evaluation {name} failed: {error}", flush=True)
        shown = " | ".join(f"{name} {value:.1%}" for name, value in found.items() if _shown(name))
        print(
            f"evaluated step {step:,} | {shown or 'nothing'}{' | best so far' if better else ''}", flush=True
        )


def _entries(config: TrainConfig, text: TextSide) -> list[Entry]:
    """What to evaluate, each opened once so that a mistake is said before the first step."""
    if config.eval_suite is not None:
        entries = [one for one in read_suite(config.eval_suite) if _needs_the_tower(one)]
        if not entries:
            raise ValueError(
                f"--eval-suite: {config.eval_suite} must evaluate the text tower, found nothing that does."
            )
    elif config.data.val_store:
        opened = _opened(config, (config.data.store[0], *config.data.val_store))
        entries = _retrieval("val", config, opened[1:], "all")
    elif config.data.holdout_fraction > 0:
        entries = _retrieval("heldout", config, _opened(config, config.data.store), "heldout")
    else:
        raise ValueError(
            "--eval-every: must have something to evaluate on, found none. Give an --eval-suite or a --val-store, or "
            "hold some data out with --holdout-fraction."
        )
    for entry in entries:
        try:
            open_subject(entry.config(config.output, None, None), text)
        except (ValueError, OSError) as error:
            raise ValueError(f"--eval-every: {entry.name} cannot be evaluated: {error}") from None
    return entries


def _opened(config: TrainConfig, paths: Sequence[str]) -> list[OpenedStore]:
    return open_stores(paths, config.data.tower_id, read_storage_options(config.data.storage_options))


def _retrieval(name: str, config: TrainConfig, stores: Sequence[OpenedStore], split: str) -> list[Entry]:
    """Retrieval on each store; of several they are numbered."""
    options = {"storage_options": config.data.storage_options, "split": split}
    return [
        Entry(
            name if len(stores) == 1 else f"{name}-{number}",
            "retrieval",
            options | {"store": store.source.store, "tower_id": store.source.tower_id},
        )
        for number, store in enumerate(stores, start=1)
    ]


def _needs_the_tower(entry: Entry) -> bool:
    return entry.kind in ("zero-shot", "retrieval")


def _as_run(config: TrainConfig, tower: TextTower, provenance: Provenance) -> LoadedRun:
    return LoadedRun(
        text_tower=tower,
        log_scale=math.nan,  # no evaluation looks at it
        bias=None,
        step=0,
        config=dataclasses.asdict(config),
        space_id=provenance.space_id,
        content_id=provenance.content_id,
        mixed=provenance.mixed,
    )


def _shown(name: str) -> bool:
    """Figures for the console: the first of each kind."""
    return name.endswith(("_r1", "/top1"))


def _keep_lines_up_to(path: Path, step: int) -> None:
    """Drops what a run that was cut off wrote after its last checkpoint; rewritten aside."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue  # half a line
    aside = path.with_suffix(".tmp")
    aside.write_text("".join(kept), encoding="utf-8")
    aside.replace(path)


def _events(folder: Path, first_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None  # the training's own log says so
    return SummaryWriter(str(folder), filename_suffix=".eval", purge_step=first_step + 1)
