"""Some of the work: the first records, a range of units, a look without work; equal images worked on once."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_precompute.lease import Lease
from schemas.manifest import ImagesManifest
from schemas.storage import Folder
from schemas.store import open_store
from tests.pipelines.stores import manifest_of, rows_of, tables_of

Rows = list[dict[str, Any]]


@pytest.fixture
def squares(tmp_path: Path, colour_rows: Rows, write_rows: Callable[..., Path]) -> Path:
    """Twelve squares in files of 3, 4 and 5, cut to row groups of two."""
    start = 0
    for part, count in enumerate((3, 4, 5)):
        rows = colour_rows[start : start + count]
        write_rows(tmp_path / "input" / f"squares-{part}.parquet", rows, row_group_size=2)
        start += count
    return tmp_path / "input"


def arguments(source: Path, store: Path, *rest: str) -> list[str]:
    return [
        *("--input", str(source), "--format", "parquet", "--unit-bytes", "1", "--tower-id", "t"),
        *("--output", str(store), *rest),
    ]


@pytest.mark.parametrize("limit", [1, 3, 5, 12, 99])
def test_limit_takes_exactly_the_first_records(
    squares: Path, tmp_path: Path, embed: Any, limit: int, colour_rows: Rows
) -> None:
    store = tmp_path / "store"
    assert embed(*arguments(squares, store, "--limit", str(limit))) == 0
    assert list(rows_of(store)) == [row["key"] for row in colour_rows[:limit]]
    assert manifest_of(store).counts["seen"] == min(limit, 12)
    before = tables_of(store)
    assert embed(*arguments(squares, store, "--limit", str(limit))) == 0
    assert tables_of(store) == before


def test_limit_of_archives_counts_records_that_fail(tmp_path: Path, embed: Any, colour_rows: Rows) -> None:
    for archive in range(2):
        with tarfile.open(tmp_path / f"{archive}.tar", "w") as tar:
            for row in colour_rows[3 * archive : 3 * archive + 3]:
                data = row["image"] if row["key"] != "square-01" else b"no image"
                for suffix, content in (("png", data), ("txt", row["caption"].encode())):
                    info = tarfile.TarInfo(f"{row['key']}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    flags = ("--input", f"{tmp_path}/*.tar", "--format", "webdataset", "--tower-id", "t", "--limit", "4")
    assert embed(*flags, "--output", tmp_path / "store") == 0
    assert list(rows_of(tmp_path / "store")) == ["square-00", "square-02", "square-03"]
    assert manifest_of(tmp_path / "store").counts["seen"] == 4


def test_a_limited_store_is_another_job(
    squares: Path, tmp_path: Path, embed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(*arguments(squares, tmp_path / "store", "--limit", "3")) == 0
    assert embed(*arguments(squares, tmp_path / "store")) == 2
    assert "limit: the store has 3, this command gives None" in capsys.readouterr().err
    assert embed(*arguments(squares, tmp_path / "store", "--limit", "3", "--append")) == 2
    assert embed(*arguments(squares, tmp_path / "store", "--limit", "0")) == 2


def test_ranges_of_units_make_the_store_one_run_would(
    squares: Path, tmp_path: Path, embed: Any, stand_in_tower: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    ranged, whole = tmp_path / "ranged", tmp_path / "whole"
    assert embed(*arguments(squares, whole)) == 0
    assert embed(*arguments(squares, ranged, "--shard-range", "3:")) == 0
    assert "these units are done" in capsys.readouterr().out
    assert not (ranged / "images/t/manifest.json").exists()
    assert embed(*arguments(squares, ranged, "--shard_range", "0:2")) == 0
    assert not (ranged / "images/t/manifest.json").exists()
    stand_in_tower.clear()
    assert embed(*arguments(squares, ranged, "--batch-size", "1")) == 0  # unit 2, and the end
    assert len(stand_in_tower) == 2
    assert tables_of(ranged) == tables_of(whole)
    assert embed(*arguments(squares, ranged, "--shard-range", "0:2")) == 0  # nothing left to do
    for wrong in ("2:2", "x", "5"):
        assert embed(*arguments(squares, ranged, "--shard-range", wrong)) == 2
        assert "--shard-range: must be A:B" in capsys.readouterr().err


def test_ranges_work_beside_each_other_unless_they_overlap(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with Lease(folder, span=range(0, 5)):
        with Lease(folder, span=range(5, 9)):
            assert sorted(os.listdir(tmp_path)) == ["lease-0-5.json", "lease-5-9.json"]
        for other in (range(4, 6), range(0, 1), None):
            with pytest.raises(ValueError, match="only one launch"), Lease(folder, span=other):
                pass
        assert os.listdir(tmp_path) == ["lease-0-5.json"]
    with Lease(folder), pytest.raises(ValueError, match="only one launch"), Lease(folder, span=range(3)):
        pass
    assert os.listdir(tmp_path) == []


def test_dry_run_says_it_all_and_writes_nothing(
    squares: Path, tmp_path: Path, embed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert embed(*arguments(squares, store, "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert not store.exists()
    for words in (
        "plan       7 units of 3 files",
        "uint8 [64, 8, 8, 3] -> float32 [64, 8]",
        "8 x float16",
        "input      squares-0.parquet [0:1]",
        "records    about 12 (counted)",
        "images/s",
        "nothing was written",
    ):
        assert words in printed
    assert embed(*arguments(squares, store, "--dry-run", "--no-such-flag")) == 2
    assert embed(*arguments(squares, store)) == 0
    before = tables_of(store)
    capsys.readouterr()
    assert embed(*arguments(squares, store, "--dry-run")) == 0
    assert "all of them are done" in capsys.readouterr().out
    assert tables_of(store) == before


def test_equal_images_are_embedded_once_within_a_unit(
    tmp_path: Path,
    colour_rows: Rows,
    write_rows: Any,
    embed: Any,
    stand_in_tower: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [dict(row) for row in colour_rows[:4]]
    rows += [row | {"key": f"again-{row['key']}", "caption": "again"} for row in colour_rows[:3]]
    rows.append({"key": "broken", "image": b"x", "caption": "c", "label": 0})
    rows.append({"key": "broken too", "image": b"x", "caption": "c", "label": 0})
    write_rows(tmp_path / "input" / "0.parquet", [rows[4], *rows[:4], *rows[5:]])
    write_rows(tmp_path / "input" / "1.parquet", [colour_rows[0] | {"key": "elsewhere"}, colour_rows[11]])
    flags = ("--batch-size", "1", "--max-failure-rate", "1")
    assert embed(*arguments(tmp_path / "input", tmp_path / "each", *flags)) == 0
    assert len(stand_in_tower) == 9
    stand_in_tower.clear()
    capsys.readouterr()
    assert embed(*arguments(tmp_path / "input", tmp_path / "once", *flags, "--dedup-exact")) == 0
    assert len(stand_in_tower) == 6  # four and two
    assert tables_of(tmp_path / "once") == tables_of(tmp_path / "each")
    counts = manifest_of(tmp_path / "once").counts
    assert counts == {
        "seen": 11, "embedded": 9, "failed": 2, "duplicate": 0, "distinct_images": 5
    }  # fmt: skip
    assert "repeated   4 of those embedded have the bytes of another image" in capsys.readouterr().out
    found = rows_of(tmp_path / "once")
    assert found["again-square-00"][0] == found["square-00"][0] == found["elsewhere"][0]
    assert len({vector for vector, _ in found.values()}) == 5


def test_a_touched_input_goes_on_once_its_records_are_compared(
    squares: Path, tmp_path: Path, embed: Any, capsys: pytest.CaptureFixture[str], stand_in_tower: list[int]
) -> None:
    store, file = tmp_path / "store", squares / "squares-1.parquet"
    assert embed(*arguments(squares, store)) == 0
    before = tables_of(store)
    os.utime(file, ns=(5, 5))
    assert embed(*arguments(squares, store)) == 2
    message = capsys.readouterr().err
    assert "squares-1.parquet: size and version" in message
    assert "--accept-touched compares" in message
    stand_in_tower.clear()
    assert embed(*arguments(squares, store, "--accept-touched")) == 0
    assert embed(*arguments(squares, store)) == 0  # remembered
    assert stand_in_tower == []
    after = tables_of(store)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"plan.parquet"}
    assert [row["accepted"] for row in after["plan.parquet"]] == [None] * 2 + ["5"] * 2 + [None] * 3
    os.utime(file, ns=(6, 6))
    assert embed(*arguments(squares, store)) == 2


def test_a_touched_input_of_other_content_is_refused(
    squares: Path, tmp_path: Path, embed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store, file = tmp_path / "store", squares / "squares-1.parquet"
    assert embed(*arguments(squares, store)) == 0
    before = tables_of(store)
    data = file.read_bytes()
    file.write_bytes(data.replace(b"green", b"grean"))
    assert file.read_bytes() != data
    os.utime(file, ns=(5, 5))
    assert embed(*arguments(squares, store, "--accept-touched")) == 2
    message = capsys.readouterr().err
    assert "another captions" in message or "damaged" in message or "records in the store" in message
    assert tables_of(store) == before
    file.write_bytes(data + b"x")
    assert embed(*arguments(squares, store, "--accept-touched")) == 2
    assert "squares-1.parquet: size and version" in capsys.readouterr().err


def test_touched_before_it_was_done_is_simply_read(
    squares: Path, tmp_path: Path, embed: Any, colour_rows: Rows, write_rows: Any
) -> None:
    """Of a unit that is not done nothing in the store could differ."""
    store = tmp_path / "store"
    assert embed(*arguments(squares, store, "--shard-range", "0:2")) == 0
    file = squares / "squares-2.parquet"
    rows = [dict(row) for row in colour_rows[7:]]
    os.utime(file, ns=(5, 5))
    assert embed(*arguments(squares, store)) == 2
    assert embed(*arguments(squares, store, "--accept-touched")) == 0
    assert list(rows_of(store))[-5:] == [row["key"] for row in rows]
    manifest = ImagesManifest.from_json((store / "images/t/manifest.json").read_bytes())
    assert manifest.counts["embedded"] == 12
    assert json.loads((store / "images/t/run.json").read_text())["counts"]["embedded"] == 12
    assert len(open_store(str(store)).images("t").parts) == 7
