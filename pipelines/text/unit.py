"""One unit of texts in, one part of vectors out."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from lit_precompute.parts import entry_of, publish_part, read_part
from pipelines.text.plan import Texts, TextUnit, read_texts
from schemas.embeddings import DTYPES
from schemas.manifest import PartEntry
from schemas.storage import Folder, StorageOptions
from trainer.evals.embed_text import compiled_embed
from trainer.text_towers import TextTower


@dataclass(frozen=True)
class TextJob:
    """What every worker must know.

    Attributes:
        units: the whole plan.
        texts: where the texts are.
        output: folder of the parts.
        run_id: of `pipelines.text.plan.run_id`.
        dtype: how vectors are stored.
        storage: fsspec options by protocol.
    """

    units: tuple[TextUnit, ...]
    texts: Texts
    output: str
    run_id: str
    dtype: str
    storage: StorageOptions

    @property
    def folder(self) -> Folder:
        return Folder(self.output, self.storage)


@dataclass(frozen=True)
class TextReceipt:
    """What became of one unit: texts read, those without a word, and the part; or why there is none."""

    unit: str
    texts: int = 0
    blank: int = 0
    part: PartEntry | None = None
    trouble: str = ""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "TextReceipt":
        value = json.loads(text)
        value["part"] = PartEntry(**value["part"]) if value["part"] else None
        return cls(**value)


class TextEmbedder:
    """A text tower compiled for one batch shape.

    Args:
        tower: with trained parameters.
        batch_size: texts at once.
    """

    def __init__(self, tower: TextTower, batch_size: int) -> None:
        self._tower, self._batch_size = tower, batch_size
        self._embed = compiled_embed(tower)
        self._params = jax.device_put(tower.params)

    @property
    def dim(self) -> int:
        return self._tower.out_dim

    def __call__(self, texts: list[str]) -> np.ndarray:
        """n texts → float32 [n, D], not normalised."""
        found = np.zeros((len(texts), self.dim), np.float32)
        for start in range(0, len(texts), self._batch_size):
            some = texts[start : start + self._batch_size]
            padded = some + some[-1:] * (self._batch_size - len(some))
            tokens = self._tower.tokenizer(padded, self._tower.max_text_length)
            found[start : start + len(some)] = np.asarray(self._embed(self._params, tokens))[: len(some)]
        return found


def texts_schema(dim: int, dtype: str) -> pa.Schema:
    """Schema of a part: one row a text, in order of its row and its place in the row."""
    value = pa.float16() if dtype == "float16" else pa.float32()
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("place", pa.int32(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("norm", pa.float32(), nullable=False),
            pa.field("embedding", pa.list_(pa.field("item", value, nullable=False), dim), nullable=False),
        ]
    )


def embed_text_unit(unit: TextUnit, job: TextJob, embedder: TextEmbedder) -> TextReceipt:
    """Embeds a unit and publishes its part; a part of this run that stands already is kept as it is.

    Trouble with the input is a receipt that says so, never an exception: other units go on.
    """
    output = job.folder
    if (standing := _standing(unit, output, job.run_id)) is not None:
        return standing
    tables, blank, count = [], 0, 0
    try:
        for some in _chunks(read_texts(unit, job.texts, job.storage), 4096):
            kept = [(id, place, text) for id, place, text in some if text is not None]
            count += len(some)
            blank += len(some) - len(kept)
            if kept:
                tables.append(_rows(kept, embedder, job.dtype))
    except (OSError, ValueError, pa.ArrowException) as error:
        return TextReceipt(unit.part, trouble=f"{unit.name}: {error}")
    table = pa.concat_tables(tables) if tables else texts_schema(embedder.dim, job.dtype).empty_table()
    footer = {"run_id": job.run_id, "unit": unit.part, "texts": count, "blank": blank}
    part = publish_part(output, unit.part, unit.part, table, footer)
    return TextReceipt(unit.part, count, blank, part)


def _standing(unit: TextUnit, output: Folder, run_id: str) -> TextReceipt | None:
    found = read_part(output, unit.part)
    if found is None or found[1].get("run_id") != run_id or found[1].get("unit") != unit.part:
        return None
    table, footer = found
    return TextReceipt(
        unit.part, footer["texts"], footer["blank"], entry_of(output, unit.part, unit.part, table, None)
    )


def _rows(kept: list[tuple[str, int, str]], embedder: TextEmbedder, dtype: str) -> pa.Table:
    ids, places, texts = map(list, zip(*kept, strict=True))
    vectors = embedder(texts)
    stored = vectors.astype(DTYPES[dtype])
    bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if len(bad):
        raise ValueError(
            f"embeddings must be finite in {dtype}; that of {ids[bad[0]]!r} is not. Try --dtype float32, or another "
            "checkpoint of the run."
        )
    schema = texts_schema(embedder.dim, dtype)
    columns: list[Any] = [
        pa.array(ids, pa.string()),
        pa.array(places, pa.int32()),
        pa.array(texts, pa.string()),
        pa.array(np.linalg.norm(vectors, axis=1).astype(np.float32)),
        pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), type=schema.field("embedding").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while some := list(islice(items, size)):
        yield some
