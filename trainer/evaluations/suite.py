"""`lit-eval all`: every evaluation of a suite, one run, the failures of some leaving the others alone."""

import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from schemas.weights import bare_name
from trainer.evals import report
from trainer.evals.figures import figures
from trainer.evaluations import EVALUATIONS, run_evaluation
from trainer.evaluations.subject import TextSide
from trainer.evaluations.suite_file import Entry, read_suite
from trainer.run_directory import Weights, hand_back, load_run, local_run

SUMMARY = "suite.json"


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """All evaluations of a YAML file; one that fails is named, and the others go on."""

    run: str
    """Folder made by lit-train."""
    suite: str
    """YAML file of evaluations; its form is in docs/evaluation.md."""
    step: int | Literal["best"] | None = None
    """A checkpoint of the run, or the one kept as best while training; the newest unless given."""
    weights: Weights = "average"
    """The running average of the parameters where the run keeps one (--average-decay), or the last ones."""
    only: tuple[str, ...] = ()
    """Names of the evaluations to run; all unless given."""
    output: str | None = None
    """Folder of the reports, one a name; unless given, `evaluations` in the run's folder."""


def run_suite(config: SuiteConfig) -> int:
    """Evaluates, prints each result as it comes; gives the exit status: 0, or 3 where some evaluations failed.

    Raises:
        ValueError: the suite cannot be read, or the run; nothing was evaluated then.
    """
    entries = chosen(read_suite(config.suite), config.only)
    folder = Path(config.output or local_run(config.run) / "evaluations")
    folder.mkdir(parents=True, exist_ok=True)
    text = TextSide(load_run(config.run, config.step, config.weights))
    results: dict[str, dict[str, Any]] = {}
    for entry in entries:
        found, error = attempt(entry, config.run, text, folder, config.step)
        if found is None:
            print(f"{entry.name}: failed: {error}\n", file=sys.stderr, flush=True)
            results[entry.name] = {"error": error}
            continue
        print(f"{entry.name}: {EVALUATIONS[entry.kind].show(found)}\n", flush=True)
        results[entry.name] = {figure.name: figure.value for figure in figures(found)}
        results[entry.name]["report"] = f"{entry.name}.json"
    summary = {
        "suite": Path(config.suite).name,
        "run": bare_name(config.run),
        "checkpoint_step": text.run.step,
        "evaluations": results,
        "versions": report.versions(),
    }
    report.write_report(summary, str(folder / SUMMARY))
    if config.output is None:
        hand_back(
            config.run,
            [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")],
        )
    failed = [name for name, result in results.items() if "error" in result]
    print(f"{len(entries) - len(failed)} of {len(entries)} evaluations written to {folder}")
    if failed:
        print(f"failed: {', '.join(failed)} (errors are in {folder / SUMMARY})", file=sys.stderr)
    return 3 if failed else 0


def failed_evaluations(folder: Path) -> dict[str, str]:
    """What the last suite whose reports lie in a folder could not evaluate, and why; by name."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = summary.get("evaluations", {}) if isinstance(summary, dict) else {}
    return {name: str(one["error"]) for name, one in found.items() if "error" in one}


def attempt(
    entry: Entry, run: str, text: TextSide, folder: Path | None, step: int | Literal["best"] | None = None
) -> tuple[dict[str, Any] | None, str]:
    """One evaluation: its report and no error, or no report and what went wrong.

    Args:
        entry: of a suite.
        run: folder of the run.
        text: its text tower.
        folder: where to write the report; nowhere if None.
        step: as it was asked for.
    """
    try:
        config = entry.config(run, step, folder)
        if folder is None:
            return EVALUATIONS[entry.kind].evaluate(config, text), ""
        return run_evaluation(entry.kind, config, text)[0], ""
    except (ValueError, OSError) as error:
        return None, str(error)
    except Exception as error:  # whatever it is, the other evaluations are not to blame for it
        traceback.print_exc()
        return None, f"{type(error).__name__}: {error}"


def chosen(entries: Sequence[Entry], only: Sequence[str]) -> list[Entry]:
    """The entries of these names, all without any. Raises ValueError for a name that is not there."""
    names = [entry.name for entry in entries]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"--only: must be of {', '.join(names)}, found {', '.join(unknown)}.")
    return [entry for entry in entries if not only or entry.name in only]
