"""A store of made vectors and captions, of any size, written through the contract alone: training needs no photos."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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

TOWER_ID = "made"
ROWS_IN_A_PART = 65_536
VOCABULARY = 30_522  # of BERT-base, so that embedding tables have the published size


def write_made_store(root: Path, rows: int, dim: int, caption_words: int = 14) -> None:
    """Writes a finished store of one tower.

    Args:
        root: a folder that is not there yet.
        rows: images, each with one caption of its own.
        dim: D; vectors are drawn from a normal distribution and kept as float16.
        caption_words: words of a caption, each one token of `write_vocabulary`.
    """
    pairs_folder, images_folder = root / "pairs", root / "images" / TOWER_ID
    pairs_folder.mkdir(parents=True)
    images_folder.mkdir(parents=True)
    pairs_parts, images_parts = [], []
    for number, first in enumerate(range(0, rows, ROWS_IN_A_PART)):
        unit, count = f"g000-{number:05d}", min(ROWS_IN_A_PART, rows - first)
        ids = [f"made/{row:09d}" for row in range(first, first + count)]
        digests = pa.array([hashlib.sha256(one.encode()).digest() for one in ids], pa.binary(32))
        rng = np.random.default_rng((0, number))
        pairs = _part(
            _pairs(ids, digests, rng, caption_words), pairs_folder / f"pairs-{unit}.parquet", unit, None
        )
        vectors = _vectors(ids, digests, rng.standard_normal((count, dim), np.float32).astype(np.float16))
        images_parts.append(_part(vectors, images_folder / f"embeddings-{unit}.parquet", unit, pairs.name))
        pairs_parts.append(pairs)
    content = content_digest(pairs_parts)
    pq.write_table(parts_to_table(pairs_parts), pairs_folder / "parts.parquet")
    pq.write_table(parts_to_table(images_parts), images_folder / "parts.parquet")
    pq.write_table(EXCLUDED_SCHEMA.empty_table(), images_folder / "excluded.parquet")
    (pairs_folder / "manifest.json").write_text(
        PairsManifest("made", {}, content, len(pairs_parts), {"records": rows}).to_json()
    )
    tower = TowerInfo("made", {}, "random:0", "pooled", {}, dim)
    manifest = ImagesManifest(
        tower_id=TOWER_ID,
        tower=tower,
        space_id=tower.space_id,
        run_id=sha256_json("made"),
        content_id=content_digest(images_parts, content),
        dtype="float16",
        views=1,
        plan="made",
        pairs=content,
        parts=len(images_parts),
        counts={"seen": rows, "embedded": rows, "failed": 0, "duplicate": 0},
        failures={},
    )
    (images_folder / "manifest.json").write_text(manifest.to_json())


def write_vocabulary(path: Path) -> None:
    """A WordPiece vocabulary of BERT-base's size, in which every word of a made caption is one token."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    path.write_text("\n".join(special + [f"w{word}" for word in range(VOCABULARY - len(special))]) + "\n")


def _pairs(ids: list[str], digests: pa.Array, rng: np.random.Generator, words: int) -> pa.Table:
    drawn = rng.integers(0, VOCABULARY - 5, (len(ids), words))
    captions = [
        [{"text": " ".join(f"w{word}" for word in row), "kind": "caption", "lang": None}] for row in drawn
    ]
    eights = pa.array(np.full(len(ids), 8, np.int32))
    columns = {
        "id": pa.array(ids),
        "image_sha256": digests,
        "captions": pa.array(captions, PAIRS_SCHEMA.field("captions").type),
        "labels": pa.array([[]] * len(ids), PAIRS_SCHEMA.field("labels").type),
        "label_names": pa.array([[]] * len(ids), PAIRS_SCHEMA.field("label_names").type),
        "width": eights,
        "height": eights,
        "metadata": pa.nulls(len(ids), pa.string()),
    }
    return pa.table(columns, schema=PAIRS_SCHEMA)


def _vectors(ids: list[str], digests: pa.Array, vectors: np.ndarray) -> pa.Table:
    dim = vectors.shape[1]
    schema = embeddings_schema(dim, "float16")
    columns = {
        "id": pa.array(ids),
        "view": pa.array(np.zeros(len(ids), np.int16)),
        "image_sha256": digests,
        "norm": pa.array(np.linalg.norm(vectors.astype(np.float32), axis=1)),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim).cast(
            schema.field("embedding").type
        ),
    }
    return pa.table(columns, schema=schema)


def _part(table: pa.Table, path: Path, unit: str, pairs_part: str | None) -> PartEntry:
    pq.write_table(table, path, compression="zstd")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return PartEntry(path.name, unit, len(table), len(data), digest, table_digest(table), pairs_part)
