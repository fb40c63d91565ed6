"""What the pages of a Parquet file would inflate to, told by their headers before anything is inflated.

A page of some hundred bytes may say that it inflates to 2 GiB, and does. Footers can lie about it, page headers can
not: pyarrow makes room for what they say and no more. So the headers are read on the way, in the very bytes that
pyarrow asks for, and it never gets to see one that asks for too much.
"""

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from lit_precompute.sources.opening import InputStream
from lit_precompute.sources.thrift_compact import IncompleteError, read_struct

MOST_INFLATED = 256 << 20  # bytes of a page, unless it is
MOST_RATIO = 10  # times smaller in the file at most: images hardly shrink at all
MOST_VALUES = 1 << 24  # of a column of lists in a row group: 16 captions of each of a million images
HEADER_BYTES = 4 << 10  # a header is some dozens of bytes, unless it has statistics;
MOST_HEADER_BYTES = 16 << 20  # pyarrow reads no longer ones either

_DICTIONARY = 2  # type of a page
_DATA_HEADERS = (5, 8)  # fields of a page header: data page, data page of version 2


@dataclass
class Chunk:
    """A column in a row group: a chain of pages.

    Attributes:
        path: names from the column down to these values, such as ("image", "bytes").
        start, end: its bytes in the file.
        inflated: bytes its pages inflate to together, as the footer says.
        values: how many there are, as the footer says.
        has_dictionary: its first page holds values that later pages name by number.
        repeated: a row may have many values.
        place: where the next page header is that was not looked at.
        dictionary: bytes that the dictionary inflates to, once it was looked at.
        seen_inflated, seen_values: of the pages looked at.
    """

    path: tuple[str, ...]
    start: int
    end: int
    inflated: int
    values: int
    has_dictionary: bool
    repeated: bool
    place: int
    dictionary: int = 0
    seen_inflated: int = 0
    seen_values: int = 0

    @property
    def shrunk_a_lot(self) -> bool:
        """Whether the file says that it holds far more than it takes."""
        return self.inflated > _allowed(self.end - self.start)


def column_chunks(footer: bytes, repeated: Sequence[bool]) -> list[list[Chunk]]:
    """Every column of every row group, in order.

    Args:
        footer: a whole `FileMetaData`.
        repeated: by column of values, whether a row may have many.

    Raises:
        ValueError: it is none, or lacks something.
    """
    facts, _ = read_struct(footer)
    try:
        return [
            [_chunk(column[3], many) for column, many in zip(group[1], repeated, strict=True)]
            for group in facts.get(4, [])
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"metadata of a column must be whole, found {error!r}") from None


def _chunk(facts: dict[int, Any], repeated: bool) -> Chunk:
    values, inflated, size, first, dictionary = (facts[5], facts[6], facts[7], facts[9], facts.get(11, 0))
    if not all(
        isinstance(number, int) and number >= 0 for number in (values, inflated, size, first, dictionary)
    ):
        raise ValueError("metadata of a column must give its places and sizes")
    has_dictionary = 0 < dictionary < first
    start = dictionary if has_dictionary else first
    path = tuple(name.decode("utf-8", "replace") for name in facts[3])
    return Chunk(path, start, start + size, inflated, values, has_dictionary, repeated, start)


class PageGuard(io.RawIOBase):
    """A stream that refuses to hand out a page that would inflate beyond reason.

    Args:
        stream: the file.

    Attributes:
        refusal: why a read was refused, which libraries between us and the file may reword.

    Raises:
        ValueError: by `read` and `watch`, when what is asked for belongs to such a page, or to no page at all.
        OSError: as the stream.
    """

    def __init__(self, stream: InputStream) -> None:
        super().__init__()
        self.refusal: str | None = None
        self._stream = stream
        self._chunks: Collection[Chunk] = ()

    def watch(self, chunks: Collection[Chunk]) -> None:
        """From now on these are looked at; their dictionaries at once."""
        self._chunks = chunks
        for chunk in chunks:
            if chunk.has_dictionary:
                self._look(chunk, chunk.start + 1, 0, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        start = self._stream.tell()
        data = self._stream.read(size)
        for chunk in self._chunks:
            if start < chunk.end:
                self._look(chunk, start + len(data), start, data)
        self._stream.seek(start + len(data))
        return data

    def _look(self, chunk: Chunk, end: int, start: int, data: bytes) -> None:
        """Looks at the headers of a chunk that begin before `end`.

        Args:
            start: place in the file of `data`.
            data: bytes that are at hand; others are read.
        """
        while chunk.place < min(end, chunk.end):
            try:
                facts, size = self._header(chunk.place, start, data)
                _demand_modest(chunk, facts, size)
            except ValueError as error:
                column = ".".join(chunk.path)
                self.refusal = f"column {column!r}, page at byte {chunk.place:,}: {error}"
                raise ValueError(self.refusal) from None
            chunk.place += size + facts[3]

    def _header(self, place: int, start: int, data: bytes) -> tuple[dict[int, Any], int]:
        """The page header at `place`, and its size."""
        if place >= start:
            try:
                facts, end = read_struct(data, place - start)
                return facts, end - (place - start)
            except IncompleteError:
                pass
        size = HEADER_BYTES
        while True:
            self._stream.seek(place)
            head = self._stream.read(size)
            try:
                return read_struct(head)
            except IncompleteError:
                if len(head) < size or size >= MOST_HEADER_BYTES:
                    raise
                size *= 16


def _demand_modest(chunk: Chunk, header: dict[int, Any], header_bytes: int) -> None:
    """Raises ValueError unless the page may be inflated; counts it."""
    inflated, compressed = header.get(2), header.get(3)
    if not (isinstance(inflated, int) and isinstance(compressed, int) and min(inflated, compressed) >= 0):
        raise ValueError("must say its sizes")
    if inflated > _allowed(compressed):
        raise ValueError(
            f"would inflate to {inflated:,} bytes out of {compressed:,}; not read. A page may have "
            f"{MOST_INFLATED:,} bytes, or {MOST_RATIO} times what it takes in the file. Write smaller pages"
        )
    chunk.seen_inflated += inflated + header_bytes
    if chunk.seen_inflated > chunk.inflated + chunk.inflated // 10 + (1 << 20):
        raise ValueError(f"the pages inflate to more than the {chunk.inflated:,} bytes that the footer says")
    if header.get(1) == _DICTIONARY:
        chunk.dictionary = max(chunk.dictionary, inflated)
    for field in _DATA_HEADERS:
        if isinstance(data_page := header.get(field), dict):
            values = data_page.get(1)
            if not (isinstance(values, int) and values >= 0):
                raise ValueError("must say how many values it has")
            chunk.seen_values += values
    if chunk.repeated and chunk.seen_values > MOST_VALUES:
        raise ValueError(
            f"a row group may have {MOST_VALUES:,} values in lists, found {chunk.seen_values:,} or more; "
            "not read. Write smaller row groups"
        )


def _allowed(compressed: int) -> int:
    return max(MOST_INFLATED, MOST_RATIO * compressed)
