"""`lit-eval table`: several runs side by side, from their reports."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from trainer.evals.figures import KINDS, Figure, figures
from trainer.evals.report import check_output
from trainer.run_directory import local_run

# What must agree before two figures of one name may be compared.
_TERMS = (
    *("content_id", "space_id", "definition", "n", "n_images", "n_captions", "split", "ids", "where"),
    *("templates", "canonicalize", "aliases", "l2"),
)
_TERMS_SHOWN = {
    "content_id": "data (content_id)",
    "space_id": "image tower (space_id)",
    "n": "number of images",
}


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Compares runs: a line per figure, a column per run."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folders made by lit-train with `evaluations` in them, folders of reports, or single reports."""
    format: Literal["markdown", "csv"] = "markdown"
    """markdown: percent with standard errors, the best in bold; csv: fractions, all digits."""
    output: str | None = None
    """File to write; printed unless given."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("RUN: must name at least one run, found none. Try lit-eval table RUN OTHER_RUN.")


@dataclass(frozen=True)
class Column:
    """The reports of one run.

    Attributes:
        name: of the run.
        reports: by the names of the evaluations.
    """

    name: str
    reports: Mapping[str, Mapping[str, Any]]


def run_table(config: TableConfig) -> int:
    """Writes or prints the table."""
    if config.output is not None:
        check_output(config.output)
    columns = [read_column(run) for run in config.runs]
    made = as_csv(columns) if config.format == "csv" else as_markdown(columns)
    if config.output is None:
        print(made, end="")
    else:
        Path(config.output).write_text(made, encoding="utf-8")
        print(f"written to {config.output}")
    return 0


def read_column(path: str) -> Column:
    """Reads the reports of a run.

    Args:
        path: the run's folder, a folder of reports, or one report.

    Raises:
        ValueError: there is no report.
    """
    reports = {name: report for name, report in read_reports(path).items() if figures(report)}
    if not reports:
        raise ValueError(
            f"RUN: must hold reports of lit-eval, found none in {path}. Write some with lit-eval all --run {path}."
        )
    place = Path(path)
    return Column(place.stem if place.is_file() else place.resolve().name, reports)


def read_reports(path: str) -> dict[str, dict[str, Any]]:
    """Reports by name of a run's folder, a folder of reports, or one report; other files are passed over."""
    place = local_run(path)
    inside = place / "evaluations" if (place / "evaluations").is_dir() else place
    files = [place] if place.is_file() else sorted(inside.glob("*.json"))
    found = {file.stem: read_report(file) for file in files}
    return {name: report for name, report in found.items() if report is not None}


def read_report(file: Path) -> dict[str, Any] | None:
    """A report of a text tower or a cache; None for another file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("evaluation") in KINDS else None


def as_markdown(columns: Sequence[Column]) -> str:
    """A Markdown table in percent, and below it what stands in the way of a comparison."""
    names = _unique([column.name for column in columns])
    lines = [["evaluation", "figure", *names], ["---", "---", *["---:"] * len(names)]]
    for evaluation, figure, found in _rows(columns):
        best = max(one.value for one in found if one is not None)
        several = sum(one is not None for one in found) > 1
        cells = [_cell(one, several and one is not None and one.value == best) for one in found]
        lines.append([evaluation, figure, *cells])
    steps = [", ".join(f"{step:,}" for step in _steps(column)) or "–" for column in columns]
    lines.append(["", "checkpoint step", *steps])
    table = "\n".join("| " + " | ".join(map(_escape, line)) + " |" for line in lines)
    notes = "".join(f"\n- {note}" for note in mismatches(columns))
    return table + "\n" + (notes + "\n" if notes else "")


def as_csv(columns: Sequence[Column]) -> str:
    """A line per evaluation, figure and run, with the digests that say what was measured."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    provenance = ("checkpoint_step", "tower_id", "space_id", "content_id", "split")
    writer.writerow(["run", "evaluation", "figure", "value", "standard_error", *provenance])
    for name, column in zip(_unique([column.name for column in columns]), columns, strict=True):
        for evaluation, report in column.reports.items():
            facts = [report.get(fact, "") for fact in provenance]
            for figure in figures(report):
                error = "" if figure.error is None else figure.error
                writer.writerow([name, evaluation, figure.name, figure.value, error, *facts])
    return file.getvalue()


def mismatches(columns: Sequence[Column]) -> list[str]:
    """Where figures of one name were not measured in the same way, or not at one step of a run."""
    notes = []
    for evaluation in _evaluations(columns):
        reports = [column.reports[evaluation] for column in columns if evaluation in column.reports]
        differing = [
            _TERMS_SHOWN.get(term, term)
            for term in _TERMS
            if len({json.dumps(report.get(term), sort_keys=True) for report in reports}) > 1
        ]
        if differing:
            notes.append(f"{evaluation}: the runs differ in {', '.join(differing)}.")
    for column in columns:
        if len(steps := _steps(column)) > 1:
            notes.append(f"{column.name}: its reports are of different steps, {', '.join(map(str, steps))}.")
    return notes


def _rows(columns: Sequence[Column]) -> Iterator[tuple[str, str, list[Figure | None]]]:
    """Evaluation, figure, and one figure a column or None."""
    for evaluation in _evaluations(columns):
        found = [{one.name: one for one in figures(column.reports.get(evaluation, {}))} for column in columns]
        for name in dict.fromkeys(name for one in found for name in one):
            yield evaluation, name, [one.get(name) for one in found]


def _evaluations(columns: Sequence[Column]) -> list[str]:
    return list(dict.fromkeys(name for column in columns for name in column.reports))


def _steps(column: Column) -> list[int]:
    return sorted(
        {r["checkpoint_step"] for r in column.reports.values() if r.get("checkpoint_step") is not None}
    )


def _cell(figure: Figure | None, best: bool) -> str:
    if figure is None:
        return "–"
    shown = f"{100 * figure.value:.1f}"
    error = "" if figure.error is None else f" ± {100 * figure.error:.1f}"
    return f"**{shown}**{error}" if best else shown + error


def _unique(names: Sequence[str]) -> list[str]:
    """Names, numbered where two are equal."""
    return [
        f"{name} ({names[:place].count(name) + 1})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
