import csv
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_precompute.records import DamagedInput
from lit_precompute.sources import text_rows
from lit_precompute.sources.text_rows import TextRows, separator_of
from lit_precompute.units import Slice


def rows_of(path: Path, separator: str | None = ",") -> TextRows:
    return TextRows(Slice(str(path), path.stat().st_size, str(path.stat().st_mtime_ns)), separator)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_quoted_cells_keep_their_line_breaks(tmp_path: Path) -> None:
    data = '\ufeff"key",caption\r\n1,"two\nlines, ""quoted"""\r\n\r\n2,plain\r\n'.encode()
    found = rows_of(write(tmp_path / "a.csv", data))
    assert [(row.number, row.values) for row in found.rows()] == [
        (0, {"key": "1", "caption": 'two\nlines, "quoted"'}),
        (1, {"key": "2", "caption": "plain"}),
    ]
    assert found.count() == (2, True)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b'2,"never closed', "a quote"),
        (b"2,too,many", "3 cells"),
        (b"2", "1 cells"),
        (b"2,a\rb", "a quote"),
        (b"2," + b"x" * 200_000, "a quote"),
        (b'"2,swallows', "a quote"),
    ],
)
def test_a_broken_row_costs_only_itself(tmp_path: Path, bad: bytes, problem: str) -> None:
    path = write(tmp_path / "a.csv", b"key,caption\n1,one\n" + bad + b"\n3,three\n4,four\n")
    rows = list(rows_of(path).rows())
    assert [row.values.get("key") for row in rows] == ["1", None, "3", "4"]
    assert rows[1].problem.startswith(problem)


def test_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"a": 1}\n\n[2]\n{"a": NaN}\r\n{"a": "\xff"}\n{"a": 5}')
    rows = list(rows_of(path, None).rows())
    assert [(row.values, bool(row.problem)) for row in rows] == [
        ({"a": 1}, False), ({}, True), ({"a": None}, False), ({}, True), ({"a": 5}, False)
    ]  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("first", [0, 3, 4, 9, 10])
def test_any_range_from_any_place(tmp_path: Path, monkeypatch, packed: bool, first: int) -> None:
    monkeypatch.setattr(text_rows, "STRIDE", 4)
    data = b"key,n\n" + b"".join(b'k%d,"%d\n"\n' % (n, n) for n in range(10))
    path = write(tmp_path / "a.csv", gzip.compress(data) if packed else data)
    warm = rows_of(path)
    warm.count()
    for found in (rows_of(path), warm):
        assert [row.values["key"] for row in found.rows(first, 10)] == [f"k{n}" for n in range(first, 10)]


def test_a_known_place_is_not_read_up_to_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(text_rows, "STRIDE", 2)
    path = write(tmp_path / "a.jsonl", b"".join(b'{"n": %d}\n' % n for n in range(10)))
    found = rows_of(path, None)
    found.count()
    seen: list[bytes] = []
    real = text_rows._Lines.next
    monkeypatch.setattr(text_rows._Lines, "next", lambda self: (seen.append(line := real(self)), line)[1])
    assert [row.values["n"] for row in found.rows(8, 10)] == [8, 9]
    assert seen == [b'{"n": 8}\n', b'{"n": 9}\n', b""]


def test_damaged_gzip_keeps_what_came_before(tmp_path: Path) -> None:
    lines = b"".join(
        b'{"n": %d, "x": "%s"}\n' % (n, bytes(str(hash(n * 7919)), "ascii")) for n in range(2000)
    )
    whole = gzip.compress(lines)
    path = write(tmp_path / "a.jsonl.gz", whole[: len(whole) // 2])
    count, is_whole = rows_of(path, None).count()
    assert 0 < count < 2000
    assert not is_whole
    rows = rows_of(path, None).rows()
    assert [next(rows).number for _ in range(count)] == list(range(count))
    with pytest.raises(DamagedInput, match="compressed data"):
        next(rows)


def test_fewer_rows_than_planned(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b"{}\n")
    with pytest.raises(DamagedInput, match="must have 2 rows"):
        list(rows_of(path, None).rows(0, 2))


def test_separators() -> None:
    assert [separator_of(name, None) for name in ("a.CSV", "a.tsv.gz", "a.jsonl", "a.ndjson.gz")] == [
        ",", "\t", None, None
    ]  # fmt: skip
    assert separator_of("a.csv", "tab") == "\t"
    assert separator_of("a.csv", ";") == ";"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=2, max_size=2), max_size=8)
)
def test_what_the_csv_module_writes_is_read_back(tmp_path: Path, cells: list[list[str]]) -> None:
    rows = [[a.replace("\r", ""), b.replace("\r", "")] for a, b in cells]
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    path = write(tmp_path / "a.csv", text.getvalue().encode())
    assert [list(row.values.values()) for row in rows_of(path).rows()] == rows


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_no_bytes_break_a_reader(tmp_path: Path, data: bytes) -> None:
    for separator in (",", None):
        path = write(tmp_path / "a", b"a,b\n" + data)
        try:
            rows = list(rows_of(path, separator).rows())
        except DamagedInput:
            continue
        assert [row.number for row in rows] == list(range(len(rows)))
