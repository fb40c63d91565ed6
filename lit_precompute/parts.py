"""Rows to a Parquet part whose footer says which run and unit it belongs to, and back."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lit_precompute.publish import publish, replace
from schemas.digests import table_digest
from schemas.embeddings import DTYPES, embeddings_schema
from schemas.manifest import PartEntry
from schemas.storage import Folder

FOOTER = b"lit-precompute"
ROW_GROUP = 4096  # rows; a reader of one column of one group touches a few MB


def embeddings_table(
    ids: list[str], views: int, image_sha256: list[bytes], vectors: np.ndarray, dtype: str
) -> pa.Table:
    """An embeddings part's rows.

    Args:
        ids: [n].
        views: V, rows per image; the V views of an image stand together.
        image_sha256: [n], 32 bytes each.
        vectors: float32 [n·V, D], finite and in range of `dtype`.
        dtype: how a component is stored.
    """
    count, dim = vectors.shape
    stored = pa.array(vectors.astype(DTYPES[dtype]).reshape(-1))
    columns = [
        pa.array(np.repeat(np.array(ids, dtype=object), views), pa.string()),
        pa.array(np.tile(np.arange(views, dtype=np.int16), len(ids))),
        pa.array(np.repeat(np.array(image_sha256, dtype=object), views), pa.binary(32)),
        pa.array(np.linalg.norm(vectors, axis=1).astype(np.float32)),
        pa.FixedSizeListArray.from_arrays(stored, type=embeddings_schema(dim, dtype).field("embedding").type),
    ]
    assert all(len(column) == count for column in columns)
    return pa.Table.from_arrays(columns, schema=embeddings_schema(dim, dtype))


def publish_part(
    folder: Folder,
    name: str,
    unit: str,
    table: pa.Table,
    footer: dict[str, Any],
    pairs_part: str | None = None,
    before_replacing: Callable[[], None] = lambda: None,
) -> PartEntry:
    """Publishes a part, or finds that the same rows stand there already.

    A part under the name with the same run, unit and rows is kept as it is; anything else there (a part cut
    short, rows of an attempt that read the input differently) is replaced in one step.

    Args:
        folder: where.
        name: bare file name.
        unit: name of the unit it was made from.
        table: its rows.
        footer: JSON values kept in the file's metadata beside the content digest.
        pairs_part: for an embeddings part, the pairs part that holds its ids.
        before_replacing: called before other rows are replaced; may raise.

    Returns:
        The entry of the file that now stands under the name.
    """
    content = table_digest(table)
    data = _encode(table, {**footer, "content": content})
    if not publish(folder, name, data):
        standing = read_part(folder, name)
        if standing is not None and standing[1].get("content") == content:
            return entry_of(folder, name, unit, standing[0], pairs_part)
        before_replacing()
        replace(folder, name, data)
    return PartEntry(name, unit, len(table), len(data), hashlib.sha256(data).hexdigest(), content, pairs_part)


def read_part(folder: Folder, name: str) -> tuple[pa.Table, dict[str, Any]] | None:
    """A part's rows and footer, or None when there is no whole part of ours whose rows match its footer.

    Raises:
        OSError: the storage can not be read, which says nothing about the part.
    """
    try:
        data = folder.read(name)
    except FileNotFoundError:
        return None
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data))
        footer = json.loads((parquet.schema_arrow.metadata or {})[FOOTER])
        table = parquet.read().replace_schema_metadata(None)
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    return (table, footer) if table_digest(table) == footer.get("content") else None


def entry_of(folder: Folder, name: str, unit: str, table: pa.Table, pairs_part: str | None) -> PartEntry:
    """The entry of a part that stands already."""
    data = folder.read(name)
    digest = hashlib.sha256(data).hexdigest()
    return PartEntry(name, unit, len(table), len(data), digest, table_digest(table), pairs_part)


def encode_table(table: pa.Table) -> bytes:
    """A small table (parts, failures, exclusions) as Parquet bytes."""
    return _encode(table, None)


def _encode(table: pa.Table, footer: dict[str, Any] | None) -> bytes:
    if footer is not None:
        table = table.replace_schema_metadata({FOOTER: json.dumps(footer, ensure_ascii=False).encode()})
    sink = pa.BufferOutputStream()
    # float16 stays PLAIN: DuckDB refuses byte-stream-split halves. Dictionaries would only slow vectors down.
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP, use_dictionary=False)
    return sink.getvalue().to_pybytes()
