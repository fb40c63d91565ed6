"""Parts carry what they are in their footer, and only whole ones count."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lit_precompute.parts import embeddings_table, publish_part, read_part
from schemas.embeddings import embeddings_schema, vectors
from schemas.storage import Folder

VECTORS = np.array([[3, 4, 0], [0, 0, 2], [1e-3, 0, 0], [1, 1, 1]], np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_come_back(folder: Folder, dtype: str) -> None:
    table = embeddings_table(["a", "b"], 2, [bytes(32), bytes(range(32))], VECTORS, dtype)
    entry = publish_part(folder, "p.parquet", "g000-00000", table, {"run_id": "r"})
    found = read_part(folder, "p.parquet")
    assert found is not None
    read, footer = found
    assert read.equals(table)
    assert read.schema.equals(embeddings_schema(3, dtype))
    assert (footer["run_id"], footer["content"], entry.content) == ("r", entry.content, entry.content)
    assert read["id"].to_pylist() == ["a", "a", "b", "b"]
    assert read["view"].to_pylist() == [0, 1, 0, 1]
    assert read["norm"].to_pylist() == pytest.approx([5, 2, 1e-3, 3**0.5])
    np.testing.assert_array_equal(vectors(read["embedding"]), VECTORS.astype(dtype))
    assert entry.rows == 4
    assert entry.bytes == (Path(folder.root) / "p.parquet").stat().st_size


def test_float16_is_written_plain_for_duckdb(folder: Folder) -> None:
    table = embeddings_table(["a"], 1, [bytes(32)], VECTORS[:1], "float16")
    publish_part(folder, "p.parquet", "g000-00000", table, {})
    metadata = pq.ParquetFile(Path(folder.root) / "p.parquet").metadata
    column = metadata.row_group(0).column(metadata.num_columns - 1)
    assert column.path_in_schema.startswith("embedding")
    assert "PLAIN" in column.encodings
    assert "BYTE_STREAM_SPLIT" not in column.encodings


def test_the_same_rows_are_adopted_and_other_rows_replaced(folder: Folder) -> None:
    one = embeddings_table(["a"], 1, [bytes(32)], VECTORS[:1], "float16")
    other = embeddings_table(["a"], 1, [bytes(32)], VECTORS[1:2], "float16")
    first = publish_part(folder, "p.parquet", "g000-00000", one, {"attempt": 1})
    assert publish_part(folder, "p.parquet", "g000-00000", one, {"attempt": 2}) == first
    assert read_part(folder, "p.parquet")[1]["attempt"] == 1
    second = publish_part(folder, "p.parquet", "g000-00000", other, {"attempt": 3})
    assert second.content != first.content
    assert read_part(folder, "p.parquet")[1]["attempt"] == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "foreign"])
def test_a_damaged_part_is_none(folder: Folder, damage: str) -> None:
    table = embeddings_table(["a"] * 50, 1, [bytes(32)] * 50, np.ones((50, 64), np.float32), "float32")
    publish_part(folder, "p.parquet", "g000-00000", table, {})
    path = Path(folder.root) / "p.parquet"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[100] ^= 0xFF
        path.write_bytes(data)
    elif damage == "gone":
        path.unlink()
    else:
        pq.write_table(table, path)
    assert read_part(folder, "p.parquet") is None
    publish_part(folder, "p.parquet", "g000-00000", table, {})
    assert read_part(folder, "p.parquet")[0].equals(table)
