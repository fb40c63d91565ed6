"""Rows of a CSV, TSV or JSON-lines file by number, wherever a worker has to begin."""

import csv
import gzip
import io
import zlib
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lit_precompute.records import DamagedInput
from lit_precompute.sources.fields import parse_json_object
from lit_precompute.sources.opening import InputStream
from lit_precompute.units import Slice
from schemas.storage import StorageOptions

STRIDE = 2048  # rows between the places that are remembered
MAX_LINE = 4 << 20  # bytes; a longer line counts as several
MAX_ROW_LINES = 100  # lines one quoted row may have; bounds what an unclosed quote can swallow
_CUT = (EOFError, gzip.BadGzipFile, zlib.error)
_NAMED = {"comma": ",", "tab": "\t", "\\t": "\t"}

# Where every STRIDE-th row of a file begins, so that a process reads a file's beginning once, however many of its units
# it is given. The plan can not say it: its ranges are row numbers.
_PLACES: dict[tuple[str, ...], dict[int, int]] = defaultdict(dict)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        number: in its file, from 0, the header not counted.
        values: by column.
        problem: why there are none.
    """

    number: int
    values: dict[str, Any]
    problem: str = ""


class TextRows:
    """One CSV, TSV or JSON-lines file, perhaps compressed with gzip.

    CSV has a header; fields may be quoted with `"` and hold line breaks then, up to 100 of them. A row whose number of
    cells is not the header's is malformed, and so is one in which a quote is not closed: that costs its first line,
    and reading goes on with the next. Blank lines are no rows.

    Args:
        file: as planned.
        separator: None for JSON lines.
        options: fsspec options by protocol.
    """

    def __init__(self, file: Slice, separator: str | None, options: StorageOptions | None = None) -> None:
        self._file = file
        self._separator = separator
        self._options = options
        self._places = _PLACES[file.path, str(file.size), file.version, separator or ""]
        self.columns: list[str] = []

    def rows(self, first: int = 0, last: int | None = None) -> Iterator[Row]:
        """Rows [first, last), or up to the end.

        Raises:
            DamagedInput: after the last row that can be had, when there should be more.
            OSError: storage trouble.
        """
        for number, raw in self._raw(first, last):
            yield self._row(number, raw)

    def count(self) -> tuple[int, bool]:
        """Number of rows, and whether the file is whole. Raises OSError on storage trouble."""
        rows = 0
        try:
            for number, _ in self._raw(0, None):
                rows = number + 1
        except DamagedInput:
            return rows, False
        return rows, True

    def read_header(self) -> None:
        """Sets `columns`; JSON lines have none. Raises OSError on storage trouble."""
        try:
            next(self._raw(0, 1), None)
        except DamagedInput:
            return

    def _raw(self, first: int, last: int | None) -> Iterator[tuple[int, Any]]:
        """(number, its line or its cells), not looked at yet."""
        found = 0
        with InputStream(self._file, self._options) as stream:
            try:
                for number, raw in self._from(_decompressed(stream), first):
                    if last is not None and number >= last:
                        return
                    if number >= first:
                        yield number, raw
                    found = number + 1
            except _CUT as error:
                if stream.failure is not None:
                    raise stream.failure from None
                where = f"row {found:,}: cut off inside the compressed data ({error})"
                raise DamagedInput(stream.name, where) from None
            if last is not None and found < last:
                raise DamagedInput(stream.name, f"must have {last:,} rows as planned, found {found:,}")

    def _from(self, file: Any, first: int) -> Iterator[tuple[int, Any]]:
        lines = _Lines(file)
        if self._separator is not None:
            header = next(_csv_rows(lines, self._separator, 0), (0, []))[1] or []
            self.columns = header
        self._places.setdefault(0, lines.offset)
        near = min(first // STRIDE, len(self._places) - 1)
        if near:
            file.seek(self._places[near])
            lines = _Lines(file, self._places[near])
        number = near * STRIDE
        for start, raw in self._split(lines):
            if number % STRIDE == 0:
                self._places.setdefault(number // STRIDE, start)
            yield number, raw
            number += 1

    def _split(self, lines: "_Lines") -> Iterator[tuple[int, Any]]:
        if self._separator is not None:
            yield from _csv_rows(lines, self._separator, len(self.columns))
            return
        while line := lines.next():
            if line.strip():
                yield lines.offset - len(line), line

    def _row(self, number: int, raw: Any) -> Row:
        if self._separator is None:
            values = parse_json_object(raw)
            return Row(number, {}, "not a JSON object") if values is None else Row(number, values)
        if raw is None:
            return Row(number, {}, "a quote that is not closed, or too long a field")
        if len(raw) != len(self.columns):
            return Row(number, {}, f"{len(raw)} cells, the header has {len(self.columns)}")
        return Row(number, dict(zip(self.columns, raw, strict=True)))


def separator_of(path: str, asked: str | None) -> str | None:
    """What separates the cells of a file: as asked, or by its suffix; None for JSON lines."""
    name = path.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson")):
        return None
    if asked is not None:
        return _NAMED.get(asked, asked)
    return "\t" if name.endswith(".tsv") else ","


class _Lines:
    """Lines of a file, with the place reached; the last ones can be put back."""

    def __init__(self, file: Any, offset: int = 0) -> None:
        self._file = file
        self._returned: deque[bytes] = deque()
        self.offset = offset

    def next(self) -> bytes:
        """The next line with its end, or b"" when there is none."""
        line = self._returned.popleft() if self._returned else self._file.readline(MAX_LINE)
        self.offset += len(line)
        return line

    def put_back(self, lines: Sequence[bytes]) -> None:
        self._returned.extendleft(reversed(lines))
        self.offset -= sum(map(len, lines))


class _Feed:
    """Hands lines to the csv module and remembers those of the row in hand."""

    def __init__(self, lines: _Lines) -> None:
        self._lines = lines
        self.taken: list[bytes] = []
        self.is_open = False  # the row wanted more than there is

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._lines.next() if len(self.taken) < MAX_ROW_LINES else b""
        if not line:
            self.is_open = bool(self.taken)
            raise StopIteration
        self.taken.append(line)
        if self._lines.offset == len(line):  # the first of the file
            line = line.removeprefix(b"\xef\xbb\xbf")
        return line.decode("utf-8", "surrogateescape")


def _csv_rows(lines: _Lines, separator: str, width: int) -> Iterator[tuple[int, list[str] | None]]:
    """(place, cells) of each row; None for cells that can not be told apart.

    Args:
        width: cells a row must have to be let go over several lines; 0 for any.
    """
    feed = _Feed(lines)
    reader = csv.reader(feed, delimiter=separator)
    while True:
        start = lines.offset
        feed.taken.clear()
        try:
            cells = next(reader, None)
        except csv.Error:
            feed.is_open, cells = True, []
        if cells is None:
            return
        several = len(feed.taken) > 1
        if feed.is_open or (several and width and len(cells) != width):
            lines.put_back(feed.taken[1:])
            feed.is_open, cells = False, None
            reader = csv.reader(feed, delimiter=separator)
        if cells != []:
            yield start, cells


def _decompressed(stream: InputStream) -> Any:
    file = io.BufferedReader(stream, 1 << 20)
    return gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file
