"""Ids that stand in more than one unit, found in bounded memory: the first in plan order keeps its id."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.store.keys import KeyLedger
from schemas.digests import image_keys, keys128
from schemas.failures import EXCLUDED_SCHEMA
from schemas.manifest import PartEntry
from schemas.storage import Folder

BATCH = 16 << 10  # rows of a part in memory at a time

_LATER = np.dtype([("part", "<u4"), ("row", "<u4"), ("kept_in", "<u4")])


def colliding_rows(pairs: Folder, parts: list[PartEntry]) -> pa.Table:
    """The rows whose id an earlier part holds, in plan order; schema `EXCLUDED_SCHEMA`.

    Ids are compared by 128 bits of their sha256, spread over temporary files (24 bytes an id). In memory are one
    bucket of them, a part's column of ids, and the rows that are found.

    Args:
        pairs: the folder of the parts.
        parts: in plan order; an id stands at most once in each.
    """
    with KeyLedger() as ledger:
        for number, part in enumerate(parts):
            for start, ids in _id_batches(pairs, part):
                ledger.add(number, *keys128(ids), np.arange(start, start + len(ids)))
        later = [_later_entries(group) for group in ledger.repeated()]
    found = np.concatenate(later) if later else np.zeros(0, _LATER)
    found.sort(order=["part", "row"])
    numbers, starts = np.unique(found["part"], return_index=True)
    tables = [
        _rows(pairs, parts, number, own)
        for number, own in zip(numbers.tolist(), np.split(found, starts[1:]), strict=False)
    ]
    return pa.concat_tables([EXCLUDED_SCHEMA.empty_table(), *tables])


def exclusions_by_part(excluded: pa.Table) -> dict[str, pa.Array]:
    """The ids to leave out, by pairs part."""
    rows = excluded.filter(pc.is_valid(excluded["part"])).select(["part", "id"])
    grouped = rows.group_by("part").aggregate([("id", "list")])
    return {
        part: pa.array(ids, pa.string())
        for part, ids in zip(grouped["part"].to_pylist(), grouped["id_list"].to_pylist(), strict=True)
    }


def distinct_images(images: Folder, parts: list[PartEntry], excluded: pa.Table) -> int:
    """How many different images (by sha256) have a vector, over all parts and without what is excluded.

    Args:
        images: the folder of the parts.
        parts: of embeddings, in plan order.
    """
    by_part = exclusions_by_part(excluded)
    with KeyLedger() as ledger:
        for number, part in enumerate(parts):
            digests = images.read_column(part.name, "image_sha256").combine_chunks()
            if part.pairs_part in by_part:
                ids = images.read_column(part.name, "id").combine_chunks()
                digests = digests.filter(pc.invert(pc.is_in(ids, value_set=by_part[part.pairs_part])))
            raw = np.frombuffer(b"".join(digests.to_pylist()), np.uint8).reshape(-1, 32)
            ledger.add(number, image_keys(raw), image_keys(raw[:, 8:]), np.arange(len(raw)))
        return ledger.repeats(show=0).distinct


def _later_entries(group: np.ndarray) -> np.ndarray:
    """All entries but the first of each key, with the part of that first one.

    Args:
        group: entries of the keys that stand more than once, equal keys side by side, each key's in plan order.
    """
    is_first = np.ones(len(group), bool)
    is_first[1:] = (group["key"][1:] != group["key"][:-1]) | (group["more"][1:] != group["more"][:-1])
    keeper = group["part"][is_first][np.cumsum(is_first) - 1]
    later = np.empty(int((~is_first).sum()), _LATER)
    later["part"], later["row"] = group["part"][~is_first], group["row"][~is_first]
    later["kept_in"] = keeper[~is_first]
    return later


def _rows(pairs: Folder, parts: list[PartEntry], number: int, own: np.ndarray) -> pa.Table:
    """The rows of one part, whose ids are read again."""
    part = parts[number]
    ids = pairs.read_column(part.name, "id").take(pa.array(own["row"].astype(np.int64)))
    columns = [
        ids.combine_chunks(),
        pa.array([part.name] * len(own)),
        pa.array([part.unit] * len(own)),
        pa.array([f"{part.name}#{row}" for row in own["row"].tolist()]),
        pa.array([parts[keeper].name for keeper in own["kept_in"].tolist()]),
    ]
    return pa.Table.from_arrays(columns, schema=EXCLUDED_SCHEMA)


def _id_batches(pairs: Folder, part: PartEntry) -> Iterator[tuple[int, list[str]]]:
    column = pairs.read_column(part.name, "id")
    for start in range(0, len(column), BATCH):
        yield start, column.slice(start, BATCH).to_pylist()
