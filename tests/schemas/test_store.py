"""Opening a store: matched by id, exclusions applied, damage refused by name."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.store import open_store

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(colour_store: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(colour_store, tmp_path / "store"))


def joined_ids(store: Path) -> list[str]:
    return [
        id for part in open_store(str(store)).images("stand-in").iter_joined() for id in part.ids.to_pylist()
    ]


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def test_rows_are_matched_by_id_not_by_order(store: Path, colour_rows: list[dict[str, Any]]) -> None:
    rewrite(store / "pairs" / "pairs-g000-00001.parquet", lambda table: table.take([3, 1, 0, 2]))
    captions = {row["key"]: row["caption"] for row in colour_rows}
    for part in open_store(str(store)).images("stand-in").iter_joined(["captions"]):
        assert part.pairs["id"].to_pylist() == part.ids.to_pylist()
        assert part.pairs.column_names == ["id", "captions"]
        for id, found in zip(part.ids.to_pylist(), part.pairs["captions"].to_pylist(), strict=True):
            assert [caption["text"] for caption in found] == [captions[id]]


def test_an_id_without_its_pair_is_refused(store: Path) -> None:
    rewrite(store / "pairs" / "pairs-g000-00001.parquet", lambda table: table.slice(1))
    with pytest.raises(
        ValueError, match=r"embeddings-g000-00001\.parquet: id 'square-04' must be in pairs-g000-00001"
    ):
        joined_ids(store)


def test_another_image_under_an_id_is_refused(store: Path) -> None:
    def swap(table: pa.Table) -> pa.Table:
        return table.set_column(0, table.schema.field("id"), table["id"].take([1, 0, 2, 3]))

    rewrite(store / "pairs" / "pairs-g000-00002.parquet", swap)
    with pytest.raises(ValueError, match="the image of id 'square-08' differs"):
        joined_ids(store)


def test_exclusions_are_applied(store: Path) -> None:
    path = store / "images" / "stand-in" / "excluded.parquet"
    rows = [
        {
            "id": "square-05",
            "part": "pairs-g000-00001.parquet",
            "unit": "g000-00001",
            "locator": "",
            "kept_in": "",
        },
        {
            "id": "square-09",
            "part": "pairs-g000-00000.parquet",
            "unit": "g000-00000",
            "locator": "",
            "kept_in": "",
        },
        {"id": "square-02", "part": None, "unit": "g000-00000", "locator": "", "kept_in": ""},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path).remove_metadata()), path)
    assert joined_ids(store) == [f"square-{n:02}" for n in range(12) if n != 5]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "embeddings-g000-00001.parquet").unlink(),
            "embeddings-g000-00001.parquet: missing",
        ),
        (
            lambda folder: (folder / "embeddings-g000-00002.parquet").write_bytes(b"PAR1" * 9),
            r"embeddings-g000-00002.parquet: must have .* bytes, found 36",
        ),
    ],
)
def test_check_names_every_damaged_part(store: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(store / "images" / "stand-in")
    with pytest.raises(ValueError, match=message):
        open_store(str(store)).images("stand-in").check()
    with pytest.raises(ValueError, match=r"embeddings-g000-0000[12].parquet: must"):
        joined_ids(store)


def test_a_part_of_another_dimension_is_refused(store: Path) -> None:
    def halve(table: pa.Table) -> pa.Table:
        vectors = np.zeros((len(table), 4), np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
        return table.set_column(4, "embedding", column)

    rewrite(store / "images" / "stand-in" / "embeddings-g000-00000.parquet", halve)
    with pytest.raises(ValueError, match="embedding: must be fixed_size_list"):
        joined_ids(store)


def test_pairs_of_another_store_are_refused(store: Path) -> None:
    path = store / "pairs" / "manifest.json"
    path.write_text(path.read_text().replace('"content": "', '"content": "0'))
    with pytest.raises(ValueError, match="The pairs changed since"):
        open_store(str(store)).images("stand-in")


def test_unknown_and_unfinished_towers_are_refused_with_the_known_ones(store: Path) -> None:
    (store / "images" / "half").mkdir()
    with pytest.raises(ValueError, match=r"'nope', found none\. Known: stand-in"):
        open_store(str(store)).images("nope")
    with pytest.raises(ValueError, match="'half', found an unfinished folder"):
        open_store(str(store)).images("half")
    with pytest.raises(ValueError, match="found nothing at"):
        open_store(str(store / "nowhere"))
    with pytest.raises(ValueError, match="must be a finished store"):
        open_store(str(store / "images"))


READERS = {
    "duckdb": "import duckdb; t = duckdb.sql(f\"select id, embedding from '{path}'\").fetchall(); rows = dict(t)",
    "pandas": "import pandas; f = pandas.read_parquet(path); rows = dict(zip(f['id'], f['embedding']))",
    "polars": "import polars; f = polars.read_parquet(path); rows = dict(zip(f['id'], f['embedding'].to_list()))",
}


@pytest.mark.parametrize("reader", sorted(READERS))
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_parts_open_as_they_are(reader: str, dtype: str, tmp_path: Path) -> None:
    """Each in a process of its own: these libraries warn and fork as they please."""
    pytest.importorskip(reader)
    from lit_precompute.parts import embeddings_table, publish_part
    from schemas.storage import Folder

    vectors = np.array([[1, 2, 0.5], [-4, 0, 8]], np.float32)
    table = embeddings_table(["a", "b"], 1, [bytes(32)] * 2, vectors, dtype)
    publish_part(Folder(str(tmp_path)), "p.parquet", "g000-00000", table, {})
    code = f"path = {str(tmp_path / 'p.parquet')!r}\n{READERS[reader]}\n"
    code += "assert {k: [float(x) for x in v] for k, v in rows.items()} == {'a': [1, 2, .5], 'b': [-4, 0, 8]}, rows"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=REPO)
