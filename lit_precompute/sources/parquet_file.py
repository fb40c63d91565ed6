"""A Parquet file read a few rows at a time, with every fault told apart: damage, or storage trouble."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lit_precompute.records import DamagedInput
from lit_precompute.sources.opening import InputStream
from lit_precompute.sources.parquet_columns import plain_values
from lit_precompute.units import printable

BATCH_ROWS = 64
BATCH_BYTES = 32 << 20  # of images in a batch, judged by the row group's mean
READ_BYTES = 1 << 20  # at a time, per column
MAX_INFLATED = 1 << 30  # bytes of a row group, when it is also
MAX_RATIO = 100  # times larger than the file: photographs do not shrink like that
# What pyarrow raises for bytes that are not what Parquet says they should be.
_ARROW_TROUBLE = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


def open_parquet(stream: InputStream) -> pq.ParquetFile:
    """Reads the footer. Raises DamagedInput or the storage's own OSError."""
    try:
        source = pa.PythonFile(stream, mode="r")
        # Without a buffer size a whole column chunk would be held.
        parquet = pq.ParquetFile(source, buffer_size=READ_BYTES, page_checksum_verification=True)
        assert parquet.schema_arrow.names is not None  # raises where a name is not text
        return parquet
    except _ARROW_TROUBLE as error:
        raise _as_trouble(stream, error, "no readable footer") from None


def row_group_batches(
    stream: InputStream, parquet: pq.ParquetFile, group: int, columns: Sequence[str]
) -> Iterator[dict[str, list[Any]]]:
    """Columns of a row group, at most 64 rows at a time, text as bytes.

    Raises:
        DamagedInput: where the row group can not be read further, or is short of rows.
        OSError: storage trouble.
    """
    done = 0
    try:
        size = _batch_rows(stream, parquet, group)
        batches = parquet.iter_batches(size, [group], list(columns), use_threads=False)
    except _ARROW_TROUBLE as error:
        raise _as_trouble(stream, error, f"row group {group}") from None
    while True:
        try:
            batch = next(batches, None)
            values = {} if batch is None else {name: plain_values(batch[name]) for name in columns}
        except _ARROW_TROUBLE as error:
            raise _as_trouble(stream, error, f"row group {group}, from its row {done}") from None
        if batch is None:
            break
        yield values
        done += batch.num_rows
    if (expected := parquet.metadata.row_group(group).num_rows) != done:
        raise DamagedInput(stream.name, f"row group {group}: must have {expected:,} rows, found {done:,}")


def demand_columns(stream: InputStream, parquet: pq.ParquetFile, columns: Sequence[str]) -> None:
    """Raises DamagedInput unless each column is there once."""
    names = parquet.schema_arrow.names
    if lacking := [name for name in columns if names.count(name) != 1]:
        raise DamagedInput(stream.name, f"must have the columns {', '.join(lacking)}, found {names}")


def _batch_rows(stream: InputStream, parquet: pq.ParquetFile, group: int) -> int:
    """Rows a batch may have so that it stays near 32 MiB; refuses a row group that inflates beyond reason.

    Only the row group's own figures are asked: pyarrow ends the process over some broken column chunk metadata.
    """
    metadata = parquet.metadata.row_group(group)
    inflated = max(1, metadata.total_byte_size)
    if inflated > MAX_INFLATED and 0 <= stream.size < inflated // MAX_RATIO:
        raise DamagedInput(
            stream.name,
            f"row group {group}: would inflate to {inflated:,} bytes out of {stream.size:,}; not read",
        )
    return int(max(1, min(BATCH_ROWS, BATCH_BYTES * metadata.num_rows // inflated)))


def _as_trouble(stream: InputStream, error: BaseException, where: str) -> Exception:
    """Storage trouble as itself, anything else as damage."""
    return stream.failure or DamagedInput(stream.name, f"{where}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0][:200])
