"""The line a terminal shows: what it says while units land, and at the end, when the receipts are gone."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_last_line_counts_all_though_the_receipts_are_gone(
    tmp_path: Path,
    colour_rows: list[dict[str, Any]],
    write_rows: Callable[..., Path],
    embed: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [dict(row) for row in colour_rows]
    rows[5]["image"] = b"no image"
    for part in range(3):
        write_rows(tmp_path / "input" / f"{part}.parquet", rows[4 * part : 4 * part + 4])
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    job = ["--input", str(tmp_path / "input"), "--format", "parquet", "--unit-bytes", "1", "--tower-id", "t"]
    assert embed(*job, "--output", str(tmp_path / "store")) == 0
    last = terminal.getvalue().rstrip("\n").rpartition("\x1b[2K")[2]
    assert last.startswith("3/3 units  12 images  ")
    assert last.endswith("  1 failed")


def test_the_last_line_of_an_appended_run_counts_what_was_appended(
    tmp_path: Path,
    colour_rows: list[dict[str, Any]],
    write_rows: Callable[..., Path],
    embed: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_rows(tmp_path / "input" / "0.parquet", colour_rows[:4])
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    job = ["--input", str(tmp_path / "input"), "--format", "parquet", "--unit-bytes", "1", "--tower-id", "t"]
    assert embed(*job, "--output", str(tmp_path / "store")) == 0
    write_rows(tmp_path / "input" / "1.parquet", colour_rows[4:7])
    assert embed(*job, "--output", str(tmp_path / "store"), "--append") == 0
    last = terminal.getvalue().rstrip("\n").rpartition("\x1b[2K")[2]
    assert last.startswith("1/1 units  3 images  ")
