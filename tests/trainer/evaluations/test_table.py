"""The comparison of runs: figures in their places, the best marked, unlike things named."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from trainer import evaluate
from trainer.evaluations.table import as_csv, as_markdown, read_column, read_reports


def retrieval(r1: float, **more: Any) -> dict[str, Any]:
    side = {"r1": r1, "r5": 0.9, "median_rank": 1.0}
    error = {"r1": 0.01, "r5": 0.02}
    return {
        "evaluation": "retrieval",
        "i2t": side,
        "t2i": side,
        "standard_error": {"i2t": error, "t2i": error},
        "checkpoint_step": 10,
        "content_id": "c",
        "space_id": "s",
        **more,
    }


def write_run(folder: Path, name: str, reports: dict[str, Any]) -> str:
    place = folder / name / "evaluations"
    place.mkdir(parents=True)
    for stem, report in reports.items():
        (place / f"{stem}.json").write_text(json.dumps(report), encoding="utf-8")
    (place / "suite.json").write_text('{"evaluations": {}}', encoding="utf-8")  # no report
    return str(folder / name)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    pets = {
        "evaluation": "zero-shot",
        "top1": 0.5,
        "top5": 0.75,
        "mean_per_class": 0.4,
        "standard_error": {"top1": 0.05},
        "checkpoint_step": 20,
    }
    probe = {"evaluation": "few-shot", "accuracy": {"1": 0.25}, "standard_error": {"1": 0.0}}
    return [
        write_run(tmp_path, "first|run", {"coco": retrieval(0.25)}),
        write_run(tmp_path, "second", {"coco": retrieval(0.5, space_id="o"), "pets": pets, "probe": probe}),
    ]


def test_markdown(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["table", *runs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| evaluation | figure | first\\|run | second |"
    assert "| coco | i2t r1 | 25.0 ± 1.0 | **50.0** ± 1.0 |" in lines
    assert "| coco | t2i r5 | **90.0** ± 2.0 | **90.0** ± 2.0 |" in lines
    assert "| pets | mean_per_class | – | 40.0 |" in lines
    assert "| probe | 1 shot | – | 25.0 ± 0.0 |" in lines
    assert "|  | checkpoint step | 10 | 10, 20 |" in lines
    assert "- coco: the runs differ in image tower (space_id)." in lines
    assert "- second: its reports are of different steps, 10, 20." in lines
    assert not any("median" in line for line in lines)


def test_csv_has_all_digits_and_the_provenance(runs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "table.csv"
    assert evaluate.main(["table", *runs, "--format", "csv", "--output", str(output)]) == 0
    rows = list(csv.DictReader(io.StringIO(output.read_text(encoding="utf-8"))))
    assert len(rows) == 4 + 4 + 3 + 1
    first = rows[0]
    assert (first["run"], first["evaluation"], first["figure"]) == ("first|run", "coco", "i2t r1")
    assert (float(first["value"]), float(first["standard_error"])) == (0.25, 0.01)
    assert (first["checkpoint_step"], first["content_id"], first["space_id"]) == ("10", "c", "s")


def test_one_run_given_twice_is_told_apart(runs: list[str]) -> None:
    columns = [read_column(runs[0])] * 2
    assert "| first\\|run (1) | first\\|run (2) |" in as_markdown(columns)
    assert "first|run (2),coco" in as_csv(columns)


def test_a_report_or_a_folder_of_them_will_do(runs: list[str]) -> None:
    inside = Path(runs[0]) / "evaluations"
    assert read_column(str(inside)).reports.keys() == {"coco"}
    assert read_column(str(inside / "coco.json")).name == "coco"


def test_without_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["table", str(tmp_path)]) == 2
    assert "found none in" in capsys.readouterr().err
    assert evaluate.main(["table"]) == 2
    assert "must name at least one run" in " ".join(capsys.readouterr().err.split())


def test_a_filters_cosines_are_not_compared(tmp_path: Path) -> None:
    pairs = {"evaluation": "pairs", "cosine": {"mean": 0.25}, "checkpoint_step": 10}
    run = write_run(tmp_path, "run", {"coco": retrieval(0.25), "filter": pairs})
    assert set(read_reports(run)) == {"coco", "filter"}
    assert set(read_column(run).reports) == {"coco"}
