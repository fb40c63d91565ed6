"""Inputs that carry another time than planned, held against the records the store has of them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from lit_precompute.config import EmbedConfig
from lit_precompute.parts import read_part
from lit_precompute.prepare import Prepared
from lit_precompute.sources import SOURCES
from lit_precompute.tally import Tally, pairs_row
from lit_precompute.units import Unit
from schemas.pairs import PAIRS_SCHEMA
from schemas.storage import Folder, StorageOptions

THREADS = 4
# All that comes from the input itself; width and height come from decoding it.
COMPARED = [name for name in PAIRS_SCHEMA.names if name not in ("width", "height")]


def compare_touched(
    config: EmbedConfig, pairs: Folder, units: Sequence[Unit], options: StorageOptions | None = None
) -> Iterator[str]:
    """Reads units again, without decoding, and names the first difference of each that is not as it was.

    A unit that is not done has nothing in the store that could differ.

    Args:
        config: how they are read.
        pairs: the store's text side.
        units: with a touched file.
        options: fsspec options by protocol.

    Raises:
        OSError: storage trouble, or a file of another size.
    """
    with ThreadPoolExecutor(THREADS, "compare") as pool:
        found = pool.map(lambda unit: _difference(config, pairs, unit, options), units)
        yield from (problem for problem in found if problem is not None)


def _difference(config: EmbedConfig, pairs: Folder, unit: Unit, options: StorageOptions | None) -> str | None:
    name = f"pairs-{unit.name}.parquet"
    standing = read_part(pairs, name)
    if standing is None:
        return f"{name}: damaged, nothing to compare with" if pairs.exists(name) else None
    theirs = standing[0].select(COMPARED).to_pylist()
    count = 0
    for count, ours in enumerate(_rows(config, unit, options), 1):
        if count > len(theirs):
            break
        other = theirs[count - 1]
        unread = None in (ours["image_sha256"], other["image_sha256"])  # storage stumbled then, or now
        differing = [column for column in COMPARED if ours[column] != other[column]]
        if differing and not (unread and differing == ["image_sha256"]):
            return f"{name} row {count - 1} ({ours['id']!r}): another {', '.join(differing)}"
    return None if count == len(theirs) else f"{name}: {len(theirs):,} records in the store, now others"


def _rows(config: EmbedConfig, unit: Unit, options: StorageOptions | None) -> Iterator[dict[str, Any]]:
    source = SOURCES[config.source.format]
    records: Iterable[Any] = source.read_unit(unit, config.source, options, config.limits.max_bytes)
    for record in Tally(max_failure_rate=1.0).accept(islice(records, unit.limit)):
        digest = hashlib.sha256(record.image).digest() if record.image is not None else b""
        yield pairs_row(Prepared(record, b"" if record.problem else digest))
