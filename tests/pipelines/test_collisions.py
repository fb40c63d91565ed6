"""Ids that stand in several units: who keeps them, and what finding out costs in memory."""

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.collisions import colliding_rows, distinct_images, exclusions_by_part
from pipelines.store import keys
from schemas.manifest import PartEntry
from schemas.storage import Folder


def entry(number: int, pairs_part: str | None = None) -> PartEntry:
    name = f"{'pairs' if pairs_part is None else 'embeddings'}-g000-{number:05}.parquet"
    return PartEntry(name, f"g000-{number:05}", 0, 0, "", "", pairs_part)


def write_ids(folder: Path, parts: list[list[str]]) -> list[PartEntry]:
    folder.mkdir(exist_ok=True)
    entries = [entry(number) for number in range(len(parts))]
    for one, ids in zip(entries, parts, strict=True):
        pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), folder / one.name)
    return entries


def naive(parts: list[list[str]]) -> list[tuple[str, str, str]]:
    """(id, part, kept in) with every id in memory."""
    first: dict[str, int] = {}
    found = []
    for number, ids in enumerate(parts):
        for id in ids:
            if (holder := first.setdefault(id, number)) != number:
                found.append((id, entry(number).name, entry(holder).name))
    return found


def test_the_first_in_plan_order_keeps_the_id(tmp_path: Path) -> None:
    parts = [["a", "b"], ["c", "b"], [], ["b", "d", "a"], ["ä", "e"]]
    found = colliding_rows(Folder(str(tmp_path / "p")), write_ids(tmp_path / "p", parts))
    assert found.to_pylist() == [
        {"id": "b", "part": entry(1).name, "unit": "g000-00001", "locator": f"{entry(1).name}#1", "kept_in": entry(0).name},
        {"id": "b", "part": entry(3).name, "unit": "g000-00003", "locator": f"{entry(3).name}#0", "kept_in": entry(0).name},
        {"id": "a", "part": entry(3).name, "unit": "g000-00003", "locator": f"{entry(3).name}#2", "kept_in": entry(0).name},
    ]  # fmt: skip
    assert exclusions_by_part(found) == {
        entry(1).name: pa.array(["b"]), entry(3).name: pa.array(["b", "a"])
    }  # fmt: skip
    assert len(colliding_rows(Folder(str(tmp_path / "p")), [])) == 0


@pytest.mark.parametrize("spill", [False, True])
def test_as_the_naive_way_finds_them(tmp_path: Path, spill: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if spill:
        monkeypatch.setattr(keys, "IN_MEMORY", 48)
    drawn = random.Random(0)
    parts = [drawn.sample([f"id-{n}" for n in range(400)], drawn.randrange(60)) for _ in range(20)]
    rows = colliding_rows(Folder(str(tmp_path)), write_ids(tmp_path, parts)).to_pylist()
    assert [(row["id"], row["part"], row["kept_in"]) for row in rows] == naive(parts)


def peak_bytes(folder: Path, entries: list[PartEntry]) -> tuple[int, int]:
    """Most memory in use at a time, of Python, NumPy and Arrow together; and the collisions found."""
    store = Folder(str(folder))
    colliding_rows(store, entries[:1])  # imports and caches
    pool = pa.default_memory_pool()
    arrow_before = pool.bytes_allocated()
    most_arrow = 0

    class Watched(Folder):
        def read_column(self, name: str, column: str) -> pa.ChunkedArray:
            nonlocal most_arrow
            found = super().read_column(name, column)
            most_arrow = max(most_arrow, pool.bytes_allocated() - arrow_before)
            return found

    tracemalloc.start()
    found = colliding_rows(Watched(str(folder)), entries)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most + most_arrow, len(found)


def test_a_million_ids_take_no_more_memory_than_a_quarter_of_them(tmp_path: Path) -> None:
    """8 bytes an id, held once, would already be 8 MB for the million; a set of the texts over 100 MB."""
    per_part = 10_000
    entries = [entry(number) for number in range(100)]
    for number, one in enumerate(entries):
        ids = [f"photograph-{number * per_part + row:012}" for row in range(per_part)]
        ids[7] = f"photograph-{max(0, number - 50):012}"  # of a part before, from the 51st on
        pq.write_table(pa.table({"id": ids}), tmp_path / one.name)
    quarter, none = peak_bytes(tmp_path, entries[:25])
    whole, found = peak_bytes(tmp_path, entries)
    assert (none, found) == (24, 99)
    assert whole < 8e6
    assert whole < 1.4 * quarter


def test_distinct_images_count_what_has_a_vector_and_is_kept(tmp_path: Path) -> None:
    digest = [bytes([n]) * 32 for n in range(4)]
    rows = [([("a", 0), ("b", 1), ("b2", 1)], "p0"), ([("a", 3), ("c", 0), ("d", 2)], "p1")]
    entries = []
    for number, (held, pairs_part) in enumerate(rows):
        entries.append(entry(number, pairs_part))
        columns = {
            "id": [id for id, _ in held],
            "image_sha256": pa.array([digest[n] for _, n in held], pa.binary(32)),
        }
        pq.write_table(pa.table(columns), tmp_path / entries[-1].name)
    folder = Folder(str(tmp_path))
    excluded = pa.table({"id": ["a"], "part": ["p1"]})
    assert distinct_images(folder, entries, excluded) == 3
    assert distinct_images(folder, entries, excluded.slice(0, 0)) == 4
    assert distinct_images(folder, [], excluded) == 0
    assert np.dtype(keys.ENTRY).itemsize == 24  # as the memory in the docstrings is reckoned
