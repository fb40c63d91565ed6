"""`lit-store thumbnails`: small pictures of given images, as a Parquet file."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.store.text import Shown
from schemas.storage import StorageOptions
from schemas.store import ImagesFolder, Store

MOST_BYTES = 256 << 20  # of input that is read for pictures
SCHEMA = pa.schema(
    [pa.field("id", pa.string(), nullable=False), pa.field("jpeg", pa.binary(), nullable=False)]
)


@dataclass(frozen=True)
class Wanted:
    """An image asked for by id; the unit it was made from saves looking for it."""

    id: str
    unit: str | None


def write_thumbnails(
    store: Store,
    tower_id: str,
    ids: str,
    output: str,
    max_input_bytes: int,
    options: StorageOptions | None = None,
) -> str:
    """Writes the pictures that can be had; gives a word about how many those are.

    Args:
        store: with a finished tower.
        tower_id: which one.
        ids: a file: an id a line, or JSON lines of id and unit.
        output: the Parquet file to write: id, jpeg.
        max_input_bytes: how much of the inputs may be read.
        options: fsspec options by protocol.

    Raises:
        ValueError: the file of ids cannot be read.
    """
    from pipelines.store.thumbnails import read_thumbnails  # Pillow: only here

    wanted = read_wanted(ids)
    shown = list(_find(store.images(tower_id), wanted))
    found, note = read_thumbnails(store, shown, options, max_input_bytes)
    rows = [{"id": id, "jpeg": jpeg} for (_, id), jpeg in found.items()]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), output)
    missing = len({one.id for one in wanted}) - len(shown)
    return note + (f"; {missing:,} ids have no vector in {tower_id}" if missing else "")


def read_wanted(path: str) -> list[Wanted]:
    """Reads a file of ids. Raises ValueError naming a line that is neither an id nor a JSON object with one."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--ids: must be a readable UTF-8 text file, found: {error}") from None
    return [_wanted(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _wanted(number: int, line: str) -> Wanted:
    if not line.startswith("{"):
        return Wanted(line, None)
    try:
        value: Any = json.loads(line)
        id, unit = value["id"], value.get("unit")
    except (ValueError, KeyError):
        raise ValueError(
            f"--ids: line {number} must be an id, or a JSON object with one; found {line[:80]!r}."
        ) from None
    return Wanted(str(id), None if unit is None else str(unit))


def _find(images: ImagesFolder, wanted: list[Wanted]) -> Iterator[Shown]:
    """What the store knows of the images; parts of other units are read only where an id came without its unit."""
    by_id: Mapping[str, Wanted] = {one.id: one for one in wanted}
    units = {one.unit for one in wanted}
    left = set(by_id)
    for part in images.parts:
        if not left or (None not in units and part.unit not in units):
            continue
        ids = images.folder.read_column(part.name, "id").to_pylist()
        views = images.manifest.views
        rows = [row for row in range(0, len(ids), views) if ids[row] in left]
        if not rows:
            continue
        digests = images.folder.read_column(part.name, "image_sha256").take(pa.array(rows)).to_pylist()
        excluded = images.excluded.get(part.pairs_part or "", ())
        for row, digest in zip(rows, digests, strict=True):
            if ids[row] not in excluded:
                left.discard(ids[row])
                yield Shown(part.unit, ids[row], digest, ())
