"""Ids that stand in several units: who keeps them, and what finding out costs in memory."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.finish.collisions import colliding_rows, distinct_images, exclusions_by_part
from pipelines.store import keys
from schemas.manifest import PartEntry
from schemas.storage import Folder

REPO = Path(__file__).resolve().parents[3]


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
        {
            "id": id,
            "part": entry(number).name,
            "unit": entry(number).unit,
            "locator": f"{entry(number).name}#{row}",
            "kept_in": entry(0).name,
        }
        for id, number, row in (("b", 1, 1), ("b", 3, 0), ("a", 3, 2))
    ]
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


MEASURE = """
import os, sys, tracemalloc
import pyarrow
from pipelines.finish.collisions import colliding_rows
from schemas.manifest import PartEntry
from schemas.storage import Folder

def entry(number):
    return PartEntry(f"pairs-g000-{number:05}.parquet", f"g000-{number:05}", 0, 0, "", "")

folder, parts = Folder(sys.argv[1]), [entry(number) for number in range(int(sys.argv[2]))]
colliding_rows(folder, parts[:2])
tracemalloc.start()
found = len(colliding_rows(folder, parts))
held = tracemalloc.get_traced_memory()[1] + pyarrow.default_memory_pool().max_memory()
print(found, held, flush=True)
os._exit(0)  # no library's threads are torn down
"""


def measure(folder: Path, parts: int) -> tuple[int, float]:
    """Collisions found in the first parts, and the most MB that Python, NumPy and Arrow held meanwhile."""
    command = [sys.executable, "-c", MEASURE, str(folder), str(parts)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPO)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found, held = ended.stdout.split()
    return int(found), int(held) / 2**20


def test_a_million_ids_take_no_more_memory_than_a_quarter_of_them(tmp_path: Path) -> None:
    """8 bytes an id, held twice, would be 16 MB for the million; a dict of the texts over 100 MB."""
    per_part = 10_000
    for number in range(100):
        ids = [f"photograph-{number * per_part + row:012}" for row in range(per_part)]
        if number:
            ids[7] = f"photograph-{number - 1:012}"  # of the first part
        pq.write_table(pa.table({"id": ids}), tmp_path / entry(number).name)
    (few, quarter), (many, whole) = measure(tmp_path, 25), measure(tmp_path, 100)
    assert (few, many) == (24, 99)
    assert max(quarter, whole) < 5.5  # 4.2 seen of each


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
