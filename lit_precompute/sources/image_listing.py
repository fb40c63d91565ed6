"""Listings: tables whose rows name an image by path or URL."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, islice
from typing import Any

from lit_precompute.config import SourceConfig
from lit_precompute.records import DamagedInput, Record
from lit_precompute.sources.damage import read_past_damage
from lit_precompute.sources.fields import Texts, as_text, caption_kinds, label_of_text, metadata_of
from lit_precompute.sources.image_fetch import Problem, Wanted, demand_openable, fetch_ahead
from lit_precompute.sources.image_paths import Places, places_of
from lit_precompute.sources.listing import Listing
from lit_precompute.sources.opening import InputStream
from lit_precompute.sources.parquet_columns import check_columns, needed_columns
from lit_precompute.sources.parquet_file import ParquetInput
from lit_precompute.sources.redaction import redact_text
from lit_precompute.sources.spans import pack
from lit_precompute.sources.table_rows import (
    PARQUET_SUFFIXES,
    TEXT_SUFFIXES,
    column_names,
    is_parquet,
    read_rows,
    row_spans,
)
from lit_precompute.sources.text_rows import Row
from lit_precompute.units import Slice, Unit, bare_name, relative_name
from schemas.storage import StorageOptions

SUFFIXES = (*PARQUET_SUFFIXES, *TEXT_SUFFIXES)
UNIT_ROWS = 2048
LOOKED_AT = 100  # rows looked at before any work begins
_THREADS = 8


def list_slices(
    listing: Listing, config: SourceConfig, unit_bytes: int, options: StorageOptions | None = None
) -> list[tuple[Slice, ...]]:
    """Units of at most 2,048 rows; short listings share one. Text files are read once to find their rows.

    Raises:
        ValueError: a file of another kind, a column that is not there, or first rows that may not be opened, none of
            them.
        OSError: storage trouble.
    """
    if others := [bare_name(file.path) for file in listing.files if not file.path.lower().endswith(SUFFIXES)]:
        raise ValueError(f"--input: must end in one of {' '.join(SUFFIXES)}, found {', '.join(others[:5])}.")
    _look_at(listing, config, options)
    with ThreadPoolExecutor(_THREADS, "listings") as pool:
        found = pool.map(lambda file: row_spans(file, UNIT_ROWS, config, options), listing.files)
        return pack((span for spans in found for span in spans), UNIT_ROWS)


def read_unit(
    unit: Unit, config: SourceConfig, options: StorageOptions | None = None, max_bytes: int = 64 << 20
) -> Iterator[Record]:
    """The rows of a unit with their images, in order.

    An image that can not be had, or that the row may not name, costs its own record.

    Args:
        unit: its slices are runs of rows.
        config: which columns are read, where images may lie.
        options: fsspec options by protocol.
        max_bytes: a larger image is not kept and its record says so.

    Raises:
        DamagedInput: after every row that can be read.
        OSError: storage trouble with the listing itself, or a listing that is not the one planned.
    """
    rows = (row for row in _wanted(unit, config, options) if unit.wants(row.record.position))
    return fetch_ahead(rows, options, max_bytes)


def _wanted(unit: Unit, config: SourceConfig, options: StorageOptions | None) -> Iterator[Wanted]:
    positions = count()
    return read_past_damage(
        partial(_read_slice, part, unit.root, config, options, positions) for part in unit.slices
    )


def _read_slice(
    part: Slice, root: str, config: SourceConfig, options: StorageOptions | None, positions: Iterator[int]
) -> Iterator[Wanted]:
    places = places_of(config, part.path)
    for row in read_rows(part, needed_columns(config), config, options):
        yield _row_wanted(row, part.path, root, config, places, next(positions))


def _row_wanted(
    row: Row, path: str, root: str, config: SourceConfig, places: Places, position: int
) -> Wanted:
    id, problem = _id(row, path, root, config)
    name, found = _image_name(row, config)
    record = Record(
        position=position,
        locator=f"{bare_name(path)}#{row.number}",
        id=id,
        image=None,
        problem=problem or found,
        **_texts(row, path, config).as_fields(),
    )
    return Wanted(record, name, places)


def _id(row: Row, path: str, root: str, config: SourceConfig) -> tuple[str | None, Problem | None]:
    if not config.id_column:
        return f"{relative_name(path, root)}/{row.number}", None
    if row.problem:
        return None, ("id", "malformed", row.problem)
    value = row.values.get(config.id_column)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, bytes | str):
        return None, None
    if (text := as_text(value)) is None:
        return None, ("id", "not_utf8", ascii(value[:80]))
    return redact_text(text), None


def _image_name(row: Row, config: SourceConfig) -> tuple[str, Problem | None]:
    if row.problem:
        return "", ("read", "malformed", row.problem)
    value = row.values.get(config.image_column)
    if value is None or (isinstance(value, bytes | str) and not value.strip()):
        return "", ("read", "missing", f"nothing in column {config.image_column!r}")
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        return "", ("read", "malformed", f"column {config.image_column!r} holds no text")
    return value.strip(), None


def _texts(row: Row, path: str, config: SourceConfig) -> Texts:
    texts = Texts()
    if row.problem:
        return texts
    for name, kind in caption_kinds(config.caption_column):
        texts.add_captions(row.values.get(name), kind)
    if config.label_column is not None:
        texts.add_labels(_label(row.values.get(config.label_column)))
    if config.metadata_columns:
        texts.metadata = metadata_of({name: row.values.get(name) for name in config.metadata_columns})
    return texts


def _label(value: Any) -> Any:
    """A class index where a text file, which knows no numbers, has digits."""
    return label_of_text(value) if isinstance(value, str) else value


def _look_at(listing: Listing, config: SourceConfig, options: StorageOptions | None) -> None:
    """Checks the columns of the first readable file, and that rows may be opened at all."""
    for file in listing.files:
        try:
            _check_columns(file, config, options)
            rows = list(islice(read_rows(file, needed_columns(config), config, options), LOOKED_AT))
        except DamagedInput:
            continue
        _check_places(file, rows, config, options)
        return


def _check_columns(file: Slice, config: SourceConfig, options: StorageOptions | None) -> None:
    if is_parquet(file):
        with InputStream(file, options) as stream:
            check_columns(bare_name(file.path), ParquetInput(stream).schema, config)
    elif names := column_names(file, config, options):
        flags = {"--image-column": config.image_column, "--id-column": config.id_column}
        wanted = [(flag, name) for flag, name in flags.items() if name]
        wanted += [("--caption-column", name) for name in config.caption_column]
        wanted += [("--label-column", config.label_column)] if config.label_column else []
        wanted += [("--metadata-columns", name) for name in config.metadata_columns]
        if wrong := [f"{flag} {name!r}" for flag, name in wanted if names.count(name) != 1]:
            raise ValueError(
                f"{bare_name(file.path)}: its header must name each column once, found {', '.join(wrong)} missing "
                f"or more than once. Its columns: {', '.join(map(repr, names[:50]))}. An empty --id-column makes "
                "ids <file>/<row>; --csv-separator says what stands between cells."
            )


def _check_places(file: Slice, rows: list[Row], config: SourceConfig, options: StorageOptions | None) -> None:
    """Raises ValueError when all of the first rows would be refused, or none of them has the image column."""
    names = [name for name, problem in (_image_name(row, config) for row in rows) if problem is None]
    demand_openable(bare_name(file.path), names, places_of(config, file.path), options)
    if rows and not any(config.image_column in row.values for row in rows):
        raise ValueError(
            f"{bare_name(file.path)}: --image-column {config.image_column!r} must be in the rows, the first has "
            f"{', '.join(map(repr, list(rows[0].values)[:50])) or 'none'}."
        )
