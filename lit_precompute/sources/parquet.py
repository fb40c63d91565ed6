"""Parquet files with a column of encoded images."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

from lit_precompute.config import SourceConfig
from lit_precompute.records import DamagedInput, Record
from lit_precompute.sources.damage import read_past_damage
from lit_precompute.sources.fields import Texts, as_text, caption_kinds, metadata_of
from lit_precompute.sources.listing import Listing
from lit_precompute.sources.opening import InputStream
from lit_precompute.sources.parquet_columns import check_columns, needed_columns
from lit_precompute.sources.parquet_file import ParquetInput
from lit_precompute.units import Slice, Unit, bare_name, relative_name
from schemas.storage import StorageOptions

SUFFIXES = (".parquet", ".pq")
SMALL = 4 << 20  # bytes; smaller files share a unit,
SHARED_FILES = 64  # at most so many of them
FOOTER_THREADS = 8


def list_slices(
    listing: Listing, config: SourceConfig, unit_bytes: int, options: StorageOptions | None = None
) -> list[tuple[Slice, ...]]:
    """Cuts Parquet files into units.

    A file over `unit_bytes` is cut between row groups into pieces of about that size. Neighbouring files under
    4 MiB share a unit, up to `unit_bytes` or 64 files. Any other file is a unit. A footer that can not be read stays
    one whole file: reading it will tell.

    Raises:
        ValueError: the first readable file lacks a column, or has one of a type that can not serve.
        OSError: storage trouble.
    """
    _check_first_readable(listing.files, config, options)
    large = [file for file in listing.files if file.size > unit_bytes]
    with ThreadPoolExecutor(FOOTER_THREADS, "footers") as pool:
        pieces = dict(zip(large, pool.map(lambda file: _cut(file, unit_bytes, options), large), strict=True))
    units: list[tuple[Slice, ...]] = []
    shared: list[Slice] = []
    for file in listing.files:
        small = file.size < min(SMALL, unit_bytes)
        full = len(shared) == SHARED_FILES or sum(one.size for one in shared) + file.size > unit_bytes
        if shared and (full or not small):
            units.append(tuple(shared))
            shared = []
        if small:
            shared.append(file)
        else:
            units += [(piece,) for piece in pieces.get(file, [file])]
    return units + ([tuple(shared)] if shared else [])


def read_unit(
    unit: Unit, config: SourceConfig, options: StorageOptions | None = None, max_bytes: int = 64 << 20
) -> Iterator[Record]:
    """The rows of a unit, in order.

    Args:
        unit: its slices are files or ranges of row groups.
        config: which columns are read.
        options: fsspec options by protocol.
        max_bytes: a larger image is dropped at once and its record says so.

    Raises:
        DamagedInput: after every readable row was yielded; damage costs a row group's rest, or a whole file when
            it is in the footer.
        OSError: storage trouble that stayed, or a file that is not the one planned.
    """
    rows = _Rows(unit.root, config, max_bytes)
    return read_past_damage(partial(_read_slice, part, rows, options) for part in unit.slices)


def _check_first_readable(
    files: Sequence[Slice], config: SourceConfig, options: StorageOptions | None
) -> None:
    for file in files:
        try:
            with InputStream(file, options) as stream:
                schema = ParquetInput(stream).schema
        except DamagedInput:
            continue
        check_columns(bare_name(file.path), schema, config)
        return


def _cut(file: Slice, unit_bytes: int, options: StorageOptions | None) -> list[Slice]:
    """Ranges of row groups of about `unit_bytes`, in order."""
    try:
        with InputStream(file, options) as stream:
            metadata = ParquetInput(stream).metadata
            sizes = [
                max(0, metadata.row_group(group).total_byte_size) for group in range(metadata.num_row_groups)
            ]
    except DamagedInput:
        return [file]
    ends = _cut_points(sizes, round(file.size / unit_bytes))
    if len(ends) <= 1:
        return [file]
    return [
        Slice(file.path, file.size, file.version, first, last)
        for first, last in zip([0, *ends[:-1]], ends, strict=True)
    ]


def _cut_points(sizes: Sequence[int], pieces: int) -> list[int]:
    """Where to end each of `pieces` runs of about equal size; the last end is `len(sizes)`.

    >>> _cut_points([5, 5, 5, 5, 5], 2)
    [3, 5]
    """
    pieces = min(len(sizes), max(1, pieces))
    ends: list[int] = []
    done = 0
    for group, size in enumerate(sizes, 1):
        done += size
        left = pieces - len(ends) - 1  # runs behind this one; each needs a row group
        if left and (done * pieces >= (len(ends) + 1) * sum(sizes) or len(sizes) - group == left):
            ends.append(group)
    return [*ends, len(sizes)]


def _read_slice(part: Slice, rows: "_Rows", options: StorageOptions | None) -> Iterator[Record]:
    with InputStream(part, options) as stream:
        parquet = ParquetInput(stream)
        groups = parquet.metadata.num_row_groups
        first, last = part.first or 0, groups if part.last is None else part.last
        if last > groups:
            raise DamagedInput(stream.name, f"must have {last} row groups as planned, found {groups}")
        parquet.demand_columns(rows.columns)
        starts = [0]
        for group in range(last):
            starts.append(starts[-1] + parquet.metadata.row_group(group).num_rows)
        yield from read_past_damage(
            partial(_read_group, parquet, group, starts[group], part.path, rows)
            for group in range(first, last)
        )


def _read_group(parquet: ParquetInput, group: int, start: int, path: str, rows: "_Rows") -> Iterator[Record]:
    row = start
    for values in parquet.batches(group, rows.columns):
        for index in range(len(values[rows.columns[0]])):
            yield rows.record(path, row, {name: column[index] for name, column in values.items()})
            row += 1


class _Rows:
    """Makes records of rows and counts them."""

    def __init__(self, root: str, config: SourceConfig, max_bytes: int) -> None:
        self.columns = needed_columns(config)
        self._root = root
        self._config = config
        self._kinds = caption_kinds(config.caption_column)
        self._max_bytes = max_bytes
        self._positions = count()

    def record(self, path: str, row: int, values: dict[str, Any]) -> Record:
        """The record of a row.

        Args:
            path: its file.
            row: its place in the file, from 0.
            values: by column name; text still as bytes.
        """
        id, problem = self._id(path, row, values)
        image = values[self._config.image_column]
        image = image.get("bytes") if isinstance(image, dict) else image
        if image is not None and len(image) > self._max_bytes:
            problem = problem or (
                "read",
                "too_many_bytes",
                f"{len(image):,} bytes, the limit is {self._max_bytes:,}",
            )
        texts = Texts()
        for name, kind in self._kinds:
            texts.add_captions(values[name], kind)
        if self._config.label_column is not None:
            texts.add_labels(values[self._config.label_column])
        if self._config.metadata_columns:
            texts.metadata = metadata_of({name: values[name] for name in self._config.metadata_columns})
        return Record(
            position=next(self._positions),
            locator=f"{bare_name(path)}#{row}",
            id=id,
            image=None if problem else image,
            problem=problem,
            **texts.as_fields(),
        )

    def _id(
        self, path: str, row: int, values: dict[str, Any]
    ) -> tuple[str | None, tuple[str, str, str] | None]:
        if not self._config.id_column:
            return f"{relative_name(path, self._root)}/{row}", None
        value = values[self._config.id_column]
        if not isinstance(value, bytes):
            return (None if value is None else str(value)), None
        if (text := as_text(value)) is None:
            return None, ("id", "not_utf8", repr(value[:80]))
        return text, None
