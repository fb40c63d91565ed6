"""Every block of docs/opening-a-store.md, run against a store; and what the blocks must find there."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.store import open_store

PAGE = Path(__file__).resolve().parent.parent / "docs" / "opening-a-store.md"
BLOCKS = dict(re.findall(r"^## ([^\n]+)\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE))
WANTED = {
    "This project's own reader",
    "DuckDB",
    "pandas",
    "Polars",
    "Hugging Face datasets",
    "faiss: an index for search",
    "autofaiss: an index that fits the memory",
    "embedding-reader: the parts as they are",
}


@pytest.fixture
def run(colour_store: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the block of a heading with the names of a real store; returns what it has defined."""

    def run_block(heading: str) -> dict[str, Any]:
        code = BLOCKS[heading].replace("STORE", str(colour_store)).replace("TOWER", "stand-in")
        names: dict[str, Any] = {}
        exec(compile(code, heading, "exec"), names)
        return names

    return run_block


@pytest.fixture
def vectors(colour_store: Path) -> dict[str, np.ndarray]:
    parts = open_store(str(colour_store)).images("stand-in").iter_joined()
    return {
        one: row
        for part in parts
        for one, row in zip(part.ids.to_pylist(), part.embeddings[:, 0], strict=True)
    }


def test_every_block_of_the_page_is_run_here() -> None:
    assert set(BLOCKS) == WANTED


def test_own_reader(run, capsys) -> None:
    run("This project's own reader")
    assert capsys.readouterr().out.count("embeddings-g000") == 3


def test_duckdb(run, vectors) -> None:
    names = run("DuckDB")
    found = dict(names["images"].fetchall())
    assert found.keys() == vectors.keys()
    for one, vector in found.items():
        np.testing.assert_array_equal(np.asarray(vector, np.float32), vectors[one])
    assert len(names["captioned"].fetchall()) == 5


def test_pandas(run, vectors) -> None:
    names = run("pandas")
    np.testing.assert_array_equal(names["matrix"], np.stack([vectors[one] for one in names["frame"]["id"]]))


def test_polars(run, vectors) -> None:
    joined = run("Polars")["joined"]
    assert set(joined["id"]) == vectors.keys()
    assert all(captions for captions in joined["captions"].to_list())


@pytest.mark.filterwarnings("ignore")
def test_datasets(run, vectors) -> None:
    pytest.importorskip("datasets")
    dataset = run("Hugging Face datasets")["dataset"]
    assert {row["id"] for row in dataset} == vectors.keys()
    np.testing.assert_array_equal(np.float32(dataset[0]["embedding"]), vectors[dataset[0]["id"]])


@pytest.mark.filterwarnings("ignore")
def test_faiss(run, vectors) -> None:
    pytest.importorskip("faiss")
    names = run("faiss: an index for search")
    assert names["index"].ntotal == len(vectors)
    assert names["rows"][:, 0].tolist() == [0, 1, 2]  # each is nearest to itself


@pytest.mark.filterwarnings("ignore")
def test_autofaiss(run, vectors) -> None:
    pytest.importorskip("autofaiss")
    names = run("autofaiss: an index that fits the memory")
    assert names["index"].ntotal == len(vectors)
    assert set(names["ids"]) == vectors.keys()
    np.testing.assert_allclose(names["similarity"][:, 0], 1, atol=1e-5)
    last = [
        names["ids"][-len(names["vectors"]) :][place] for place in range(3)
    ]  # of the last part, the one searched
    assert [names["ids"][row] for row in names["rows"][:, 0]] == last


@pytest.mark.filterwarnings("ignore")
def test_embedding_reader(run, vectors) -> None:
    pytest.importorskip("embedding_reader")
    found = run("embedding-reader: the parts as they are")["found"]
    assert found.keys() == vectors.keys()
    for one, vector in found.items():
        np.testing.assert_array_equal(np.float32(vector), vectors[one])
