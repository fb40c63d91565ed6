"""Which texts are embedded: Parquet files, cut into spans of row groups."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from lit_precompute.sources.listing import list_inputs
from lit_precompute.units import Slice
from schemas.digests import sha256_json
from schemas.storage import StorageOptions, filesystem
from schemas.weights import bare_name

UNIT_ROWS = 65_536  # a unit's rows at least, where a file has as many


@dataclass(frozen=True)
class TextUnit:
    """A span [first, last) of the row groups of one file, made into one part."""

    number: int
    path: str
    size: int
    version: str
    first: int
    last: int
    rows: int

    @property
    def part(self) -> str:
        return f"texts-{self.number:05d}.parquet"

    @property
    def name(self) -> str:
        """For messages: the bare file name and the row groups."""
        return f"{bare_name(self.path)} row groups {self.first} to {self.last - 1}"


@dataclass(frozen=True)
class Texts:
    """Where in a file the texts are."""

    text_column: str = "captions"
    """Column of texts: a string, a list of strings, or a list of structs with a `text`, as a store's pairs have."""
    id_column: str = "id"
    """Column of ids, strings."""


def plan_units(inputs: tuple[str, ...], texts: Texts, storage: StorageOptions) -> list[TextUnit]:
    """Lists the files, looks at their footers and cuts them; the order of files is that of their names.

    Raises:
        ValueError: nothing matches, or a file is no Parquet file with these columns.
    """
    units: list[TextUnit] = []
    for file in list_inputs(inputs, (".parquet",), storage).files:
        if not file.path.endswith("/parts.parquet"):  # of a store: the list of its parts
            units += _cut(file, texts, storage, len(units))
    return units


def run_id(units: list[TextUnit], texts: Texts, tower: str, dtype: str) -> str:
    """Hex digest of all that decides the output: the texts' files, columns, the tower's weights, the stored type."""
    files = [[bare_name(unit.path), unit.size, unit.version, unit.first, unit.last] for unit in units]
    return sha256_json([files, texts.text_column, texts.id_column, tower, dtype])


def read_texts(
    unit: TextUnit, texts: Texts, storage: StorageOptions
) -> Iterator[tuple[str, int, str | None]]:
    """(id, place in the row's texts, text) of every text of a unit; None for a missing or blank one.

    A row without any text gives one None at place 0, so that nothing is lost without being counted.
    """
    fs, path = filesystem(unit.path, storage)
    with fs.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        for group in range(unit.first, unit.last):
            table = parquet.read_row_group(group, columns=[texts.id_column, texts.text_column])
            ids = table.column(texts.id_column).to_pylist()
            for row, (id, value) in enumerate(
                zip(ids, table.column(texts.text_column).to_pylist(), strict=True)
            ):
                if id is None:
                    raise ValueError(f"every row must have an id in {texts.id_column!r}, row {row} has none.")
                for place, text in enumerate(_texts_of(value) or [None]):
                    yield str(id), place, text if text and text.strip() else None


def _cut(file: Slice, texts: Texts, storage: StorageOptions, number: int) -> list[TextUnit]:
    path = file.path
    fs, inside = filesystem(path, storage)
    try:
        with fs.open(inside, "rb") as opened:
            metadata = pq.ParquetFile(opened).metadata
            schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{bare_name(path)}: must be a whole Parquet file, found: {error}") from error
    for flag, column in (("--text-column", texts.text_column), ("--id-column", texts.id_column)):
        if column not in schema.names:
            raise ValueError(
                f"{flag}: must be a column of {bare_name(path)}, found {column!r}; it has {schema.names}."
            )
    _check_texts(schema.field(texts.text_column).type, texts.text_column)
    units: list[TextUnit] = []
    first, rows = 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= UNIT_ROWS or group == metadata.num_row_groups - 1:
            units.append(TextUnit(number + len(units), path, file.size, file.version, first, group + 1, rows))
            first, rows = group + 1, 0
    return units


def _check_texts(kind: pa.DataType, column: str) -> None:
    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    if pa.types.is_struct(inner) and "text" in inner.names:
        inner = inner.field("text").type
    if not (pa.types.is_string(inner) or pa.types.is_large_string(inner)):
        raise ValueError(
            f"--text-column: {column!r} must hold strings, lists of strings, or lists of structs with a text; "
            f"found {kind}."
        )


def _texts_of(value: object) -> list[str | None]:
    if isinstance(value, list):
        return [one["text"] if isinstance(one, dict) else one for one in value]
    return [value if isinstance(value, str) else None]
