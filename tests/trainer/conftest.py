"""A store of a few records, written through the contract alone, and a tokenizer one can do by head."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.digests import sha256_json, table_digest
from schemas.embeddings import embeddings_schema
from schemas.failures import EXCLUDED_SCHEMA
from schemas.manifest import (
    ImagesManifest,
    PairsManifest,
    PartEntry,
    TowerInfo,
    content_digest,
    parts_to_table,
)
from schemas.pairs import PAIRS_SCHEMA


@dataclass(frozen=True)
class Row:
    """One image of a test store: its vectors [V, D], captions, and bytes standing for the encoded image."""

    id: str
    vectors: Sequence[Sequence[float]]
    captions: tuple[str | tuple[str, str, str | None], ...]  # a text, or text, kind and language
    image: bytes | None = None


@dataclass(frozen=True)
class WordLengths:
    """A tokenizer whose ids are the lengths of the words."""

    vocab_size: int = 32
    pad_id: int = 0
    digest: str = "word-lengths"

    def __call__(self, texts: Sequence[str], max_length: int) -> np.ndarray:
        tokens = np.zeros((len(texts), max_length), np.int32)
        for row, text in zip(tokens, texts, strict=True):
            lengths = [len(word) for word in text.split()][:max_length]
            row[: len(lengths)] = lengths
        return tokens


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what XLA compiles for the session: most training tests run one and the same step."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(tmp_path_factory.mktemp("compiled")), 0.0), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


@pytest.fixture
def row() -> type[Row]:
    return Row


@pytest.fixture
def word_lengths() -> WordLengths:
    return WordLengths()


@pytest.fixture
def write_store(tmp_path: Path) -> Callable[..., str]:
    """`write_store(units, name="store", dtype="float16", weights="random:0") -> path`, one part per unit."""

    def write(
        units: list[list[Row]], name: str = "store", dtype: str = "float16", weights: str = "random:0"
    ) -> str:
        root = tmp_path / name
        pairs_folder, images_folder = root / "pairs", root / "images" / "tower"
        pairs_folder.mkdir(parents=True)
        images_folder.mkdir(parents=True)
        views, dim = np.shape(units[0][0].vectors)
        pairs_parts, images_parts = [], []
        for number, rows in enumerate(units):
            unit = f"g000-{number:05d}"
            pairs = _part(_pairs_table(rows), pairs_folder / f"pairs-{unit}.parquet", unit)
            pairs_parts.append(pairs)
            table = _embeddings_table(rows, dim, dtype)
            images_parts.append(_part(table, images_folder / f"embeddings-{unit}.parquet", unit, pairs.name))
        pairs_content = content_digest(pairs_parts)
        pq.write_table(parts_to_table(pairs_parts), pairs_folder / "parts.parquet")
        pq.write_table(parts_to_table(images_parts), images_folder / "parts.parquet")
        pq.write_table(EXCLUDED_SCHEMA.empty_table(), images_folder / "excluded.parquet")
        count = sum(map(len, units))
        (pairs_folder / "manifest.json").write_text(
            PairsManifest("plan", {}, pairs_content, len(units), {"records": count}).to_json()
        )
        tower = TowerInfo("stand-in", {}, weights, "pooled", {}, dim)
        manifest = ImagesManifest(
            tower_id="tower",
            tower=tower,
            space_id=tower.space_id,
            run_id=sha256_json("run"),
            content_id=content_digest(images_parts, pairs_content),
            dtype=dtype,
            views=views,
            plan="plan",
            pairs=pairs_content,
            parts=len(units),
            counts={"seen": count, "embedded": count, "failed": 0, "duplicate": 0},
            failures={},
        )
        (images_folder / "manifest.json").write_text(manifest.to_json())
        return str(root)

    return write


def _sha256(row: Row) -> bytes:
    return hashlib.sha256(row.image or row.id.encode()).digest()


def _pairs_table(rows: list[Row]) -> pa.Table:
    records = [
        {
            "id": row.id,
            "image_sha256": _sha256(row),
            "captions": [
                {"text": text, "kind": kind, "lang": lang}
                for text, kind, lang in (
                    one if isinstance(one, tuple) else (one, "caption", None) for one in row.captions
                )
            ],
            "labels": [],
            "label_names": [],
            "width": 8,
            "height": 8,
            "metadata": None,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(records, schema=PAIRS_SCHEMA)


def _embeddings_table(rows: list[Row], dim: int, dtype: str) -> pa.Table:
    records = [
        {
            "id": row.id,
            "view": view,
            "image_sha256": _sha256(row),
            "norm": float(np.linalg.norm(vector)),
            "embedding": np.asarray(vector, dtype).tolist()
            if dtype == "float32"
            else [np.float16(value) for value in vector],
        }
        for row in rows
        for view, vector in enumerate(row.vectors)
    ]
    return pa.Table.from_pylist(records, schema=embeddings_schema(dim, dtype))


def _part(table: pa.Table, path: Path, unit: str, pairs_part: str | None = None) -> PartEntry:
    pq.write_table(table, path)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return PartEntry(path.name, unit, len(table), len(data), digest, table_digest(table), pairs_part)
