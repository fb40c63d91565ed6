"""A Parquet file read a few rows at a time, with every fault told apart: damage, or storage trouble."""

import io
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lit_precompute.records import DamagedInput
from lit_precompute.sources.opening import InputStream
from lit_precompute.sources.parquet_columns import dense_bytes, plain_values
from lit_precompute.sources.parquet_pages import MOST_INFLATED, Chunk, PageGuard, column_chunks
from lit_precompute.units import printable

BATCH_ROWS = 64
BATCH_BYTES = 32 << 20  # of values in a batch, judged by the row group's mean
READ_BYTES = 1 << 20  # at a time, per column
TAIL_BYTES = 64 << 10  # read at once to find the footer, which is rarely longer
# What pyarrow raises for bytes that are not what Parquet says they should be.
_ARROW_TROUBLE = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


class ParquetInput:
    """An open Parquet file.

    Args:
        stream: its bytes.

    Attributes:
        metadata: the footer, of which pyarrow ends the process over some broken column chunks when they are asked for.
        schema: of the columns.

    Raises:
        DamagedInput: there is no readable footer.
        OSError: storage trouble.
    """

    def __init__(self, stream: InputStream) -> None:
        self._stream = stream
        self._guard = PageGuard(stream)
        try:
            self._footer = _read_footer(stream)
            self.metadata: pq.FileMetaData = pq.read_metadata(pa.BufferReader(self._footer))
            self.schema: pa.Schema = self._reader([]).schema_arrow
            assert self.schema.names is not None  # raises where a name is not text
        except _ARROW_TROUBLE as error:
            raise self._trouble(error, "no readable footer") from None

    def demand_columns(self, columns: Sequence[str]) -> None:
        """Raises DamagedInput unless each column is there once."""
        names = self.schema.names
        if lacking := [name for name in columns if names.count(name) != 1]:
            raise DamagedInput(
                self._stream.name, f"must have the columns {', '.join(lacking)}, found {names}"
            )

    def batches(self, group: int, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        """Columns of a row group, at most 64 rows at a time, text as bytes.

        Raises:
            DamagedInput: where the row group can not be read further, would inflate beyond reason, or is short of rows.
            OSError: storage trouble.
        """
        done, expected = 0, self.metadata.row_group(group).num_rows
        try:
            chunks = [chunk for chunk in self._chunks[group] if chunk.path[0] in columns]
            self._guard.watch(chunks)
            reader = self._reader([".".join(chunk.path) for chunk in chunks if _may_repeat_much(chunk)])
            batches = reader.iter_batches(
                _batch_rows(chunks, expected), [group], list(columns), use_threads=False
            )
        except _ARROW_TROUBLE as error:
            raise self._trouble(error, f"row group {group}") from None
        while True:
            try:
                batch = next(batches, None)
                values = {} if batch is None else {name: _values(batch[name]) for name in columns}
            except _ARROW_TROUBLE as error:
                raise self._trouble(error, f"row group {group}, from its row {done}") from None
            if batch is None:
                break
            yield values
            done += batch.num_rows
        if done != expected:
            raise DamagedInput(
                self._stream.name, f"row group {group}: must have {expected:,} rows, found {done:,}"
            )

    @cached_property
    def _chunks(self) -> list[list[Chunk]]:
        schema = self.metadata.schema
        repeated = [schema.column(place).max_repetition_level > 0 for place in range(len(schema))]
        return column_chunks(self._footer[4:-8], repeated)

    def _reader(self, as_dictionary: Sequence[str]) -> pq.ParquetFile:
        return pq.ParquetFile(
            pa.PythonFile(self._guard, mode="r"),
            metadata=self.metadata,
            buffer_size=READ_BYTES,  # without it a whole column chunk would be held
            page_checksum_verification=True,
            read_dictionary=list(as_dictionary),
        )

    def _trouble(self, error: BaseException, where: str) -> Exception:
        """Storage trouble as itself, anything else as damage."""
        if self._stream.failure is not None:
            return self._stream.failure
        return DamagedInput(self._stream.name, f"{where}: {self._guard.refusal or _first_line(error)}")


def _read_footer(stream: InputStream) -> bytes:
    """The footer as the file of no rows that it would be the footer of."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - TAIL_BYTES))
    tail = stream.read()
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] == b"PAR1" and len(tail) < length <= size:
        stream.seek(size - length)
        tail = stream.read()
    return b"PAR1" + tail[-length:] if length <= len(tail) else tail


def _batch_rows(chunks: Sequence[Chunk], rows: int) -> int:
    """Rows a batch may have so that it stays near 32 MiB; one where the columns hold far more than they take.

    A dictionary's value may stand in every row.
    """
    most = min(BATCH_ROWS, BATCH_BYTES * rows // max(1, sum(chunk.inflated for chunk in chunks)))
    for chunk in chunks:
        if not chunk.repeated:
            most = min(most, MOST_INFLATED // max(1, chunk.dictionary))
        if chunk.shrunk_a_lot:
            most = 1
    return max(1, most)


def _may_repeat_much(chunk: Chunk) -> bool:
    """Whether one row could hold a dictionary's largest value so often that it must not be written out."""
    return chunk.repeated and chunk.dictionary * chunk.values > MOST_INFLATED


def _values(column: pa.Array) -> list[Any]:
    if (size := dense_bytes(column)) > MOST_INFLATED:
        raise ValueError(f"a few rows may have {MOST_INFLATED:,} bytes of text in lists, found {size:,}")
    return plain_values(column)


def _first_line(error: BaseException) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0][:200])
