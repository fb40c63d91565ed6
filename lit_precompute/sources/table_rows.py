"""Rows of a listing file by number: Parquet, CSV, TSV or JSON lines."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate

from lit_precompute.config import SourceConfig
from lit_precompute.records import DamagedInput
from lit_precompute.sources.damage import read_past_damage
from lit_precompute.sources.opening import InputStream
from lit_precompute.sources.parquet_file import ParquetInput
from lit_precompute.sources.spans import split_evenly
from lit_precompute.sources.text_rows import Row, TextRows, separator_of
from lit_precompute.units import Slice
from schemas.storage import StorageOptions

TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz")
PARQUET_SUFFIXES = (".parquet", ".pq")


def row_spans(
    file: Slice, most: int, config: SourceConfig, options: StorageOptions | None = None
) -> list[tuple[Slice, int]]:
    """Cuts a file into runs of at most `most` rows, each with its number of rows.

    A damaged file's last run goes on to its end, so that reading it tells what is wrong.

    Raises:
        OSError: storage trouble.
    """
    rows, whole = _count(file, config, options)
    spans = split_evenly(file, rows, most)
    if not whole:
        part, size = spans[-1]
        spans[-1] = (Slice(file.path, file.size, file.version, part.first, None), size)
    return spans


def read_rows(
    part: Slice, columns: Sequence[str], config: SourceConfig, options: StorageOptions | None = None
) -> Iterator[Row]:
    """The rows of a slice in order; text is bytes or str, which lone surrogates may be in.

    Args:
        part: rows [first, last) of a file; None for the beginning or the end.
        columns: what a Parquet file is asked for. Of other files every column is there.

    Raises:
        DamagedInput: after every row that can be read.
        OSError: storage trouble, or a file that is not the one planned.
    """
    if is_parquet(part):
        return _read_parquet(part, columns, options)
    return _text_rows(part, config, options).rows(part.first or 0, part.last)


def column_names(file: Slice, config: SourceConfig, options: StorageOptions | None = None) -> list[str]:
    """Names in the header of a CSV or TSV file; [] for JSON lines."""
    rows = _text_rows(file, config, options)
    rows.read_header()
    return rows.columns


def is_parquet(file: Slice) -> bool:
    return file.path.lower().endswith(PARQUET_SUFFIXES)


def _text_rows(file: Slice, config: SourceConfig, options: StorageOptions | None) -> TextRows:
    return TextRows(file, separator_of(file.path, config.csv_separator), options)


def _count(file: Slice, config: SourceConfig, options: StorageOptions | None) -> tuple[int, bool]:
    if not is_parquet(file):
        return _text_rows(file, config, options).count()
    try:
        with InputStream(file, options) as stream:
            return max(0, ParquetInput(stream).metadata.num_rows), True
    except DamagedInput:
        return 0, False


def _read_parquet(part: Slice, columns: Sequence[str], options: StorageOptions | None) -> Iterator[Row]:
    with InputStream(part, options) as stream:
        parquet = ParquetInput(stream)
        parquet.demand_columns(columns)
        groups = parquet.metadata.num_row_groups
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(groups)]
        starts = [0, *accumulate(sizes)]
        first, last = part.first or 0, sum(sizes) if part.last is None else part.last
        if last > sum(sizes):
            raise DamagedInput(stream.name, f"must have {last:,} rows as planned, found {sum(sizes):,}")

        def read_group(group: int) -> Iterator[Row]:
            number = starts[group]
            for batch in parquet.batches(group, columns):
                for values in zip(*batch.values(), strict=True):
                    if number >= last:
                        return
                    if number >= first:
                        yield Row(number, dict(zip(batch, values, strict=True)))
                    number += 1

        wanted = [g for g in range(groups) if starts[g] < last and starts[g] + sizes[g] > first]
        yield from read_past_damage(partial(read_group, group) for group in wanted)
