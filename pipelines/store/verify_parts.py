"""What must hold of one part: its file, its footer, its rows."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lit_precompute.parts import FOOTER
from pipelines.store.findings import BROKEN, first_line, short
from schemas.digests import table_digest
from schemas.embeddings import vectors
from schemas.ids import id_problem
from schemas.manifest import PartEntry
from schemas.storage import Folder

BLOCK = 4096  # vectors looked at together, in float64


@dataclass
class CheckedPart:
    """What was found in one part.

    Attributes:
        table: its rows, or None where there is nothing to read.
        problems: what must hold and was found otherwise, a line each.
    """

    table: pa.Table | None = None
    problems: list[str] = field(default_factory=list)


def check_part(folder: Folder, entry: PartEntry, schema: pa.Schema, footer: Mapping[str, Any]) -> CheckedPart:
    """Holds a part's file against its line in `parts.parquet`.

    Args:
        folder: where it lies.
        entry: its line.
        schema: what its columns must be.
        footer: values that its footer must have beside the unit, the rows and the content.
    """
    checked = CheckedPart()
    try:
        data = folder.read(entry.name)
    except FileNotFoundError:
        checked.problems.append("must exist, not found")
        return checked
    if len(data) != entry.bytes:
        checked.problems.append(f"must have {entry.bytes:,} bytes, found {len(data):,}")
    elif (digest := hashlib.sha256(data).hexdigest()) != entry.sha256:
        checked.problems.append(f"sha256 must be {short(entry.sha256)}, found {short(digest)}")
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data))
        metadata = parquet.schema_arrow.metadata or {}
        table = parquet.read().replace_schema_metadata(None)
        table.validate(full=True)
    except BROKEN as error:
        checked.problems.append(f"must be a whole Parquet file, found: {first_line(error)}")
        return checked
    if not table.schema.equals(schema):
        found = ", ".join(f"{column.name}: {column.type}" for column in table.schema)
        checked.problems.append(f"columns must be those of the format, found {found}")
        return checked
    checked.table = table
    checked.problems += _content_problems(table, entry)
    checked.problems += _footer_problems(
        metadata, {"unit": entry.unit, "rows": len(table), "content": entry.content, **footer}
    )
    return checked


def id_problems(table: pa.Table, views: int = 1) -> Iterator[str]:
    """Ids must be valid and stand once; the views of an image stand together, in order.

    Args:
        table: rows of a part.
        views: rows an image has.
    """
    ids = table.column("id").combine_chunks()
    if "view" in table.column_names:
        numbers, images = table.column("view").to_numpy(), len(table) // views
        together = len(table) % views == 0 and np.array_equal(numbers, np.tile(np.arange(views), images))
        if not together or len(pc.unique(ids)) > images:
            yield f"must hold views 0 to {views - 1} of every image once, together; found otherwise"
        ids = ids.take(pa.array(np.flatnonzero(numbers == 0)))
    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(repeated):
        yield f"ids must stand once, found {len(repeated):,} repeated, {repeated[0].as_py()!r} first"
    bad = [id for id in ids.to_pylist() if id_problem(id)]
    if bad:
        yield f"ids must be valid, found {len(bad):,} that are not, {bad[0][:80]!r} first"


def vector_problems(table: pa.Table) -> Iterator[str]:
    """Vectors must be finite, must not be zero, and must have the norm stored beside them."""
    stored, norms = vectors(table.column("embedding")), table.column("norm").to_numpy()
    ids = table.column("id")
    wrong: dict[str, list[int]] = {"not_finite": [], "zero": [], "norm": []}
    found = np.zeros(len(stored))
    for start in range(0, len(stored), BLOCK):
        block = stored[start : start + BLOCK].astype(np.float64)
        finite = np.isfinite(block).all(axis=1)
        length = np.sqrt(np.einsum("nd,nd->n", block, block))
        found[start : start + BLOCK] = length
        with np.errstate(invalid="ignore"):  # infinity less infinity
            off = ~(np.abs(norms[start : start + BLOCK] - length) <= norm_tolerance(length, stored))
        wrong["not_finite"] += (start + np.flatnonzero(~finite)).tolist()
        wrong["zero"] += (start + np.flatnonzero(finite & (length == 0))).tolist()
        wrong["norm"] += (start + np.flatnonzero(finite & (length > 0) & off)).tolist()
    if rows := wrong["not_finite"]:
        yield f"vectors must be finite, found {len(rows):,} that are not, id {ids[rows[0]].as_py()!r} first"
    if rows := wrong["zero"]:
        yield f"vectors must not be zero, found {len(rows):,}, id {ids[rows[0]].as_py()!r} first"
    if rows := wrong["norm"]:
        yield (
            f"norms must be those of the vectors, found {len(rows):,} that are not, id "
            f"{ids[rows[0]].as_py()!r} first: norm {norms[rows[0]]:.6g}, vector of length {found[rows[0]]:.6g}"
        )


def norm_tolerance(length: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """How far a norm taken before rounding may lie from that of the rounded vector.

    Rounding to float16 moves a component by at most 2⁻¹¹ of itself, or 2⁻²⁵ below the normal range, so it moves the
    norm by at most 2⁻¹¹ ‖v‖ + 2⁻²⁵ √D. The norm itself was summed in float32: some 10⁻⁵ of it.

    Args:
        length: float64 [n], norms of the stored vectors.
        stored: float16 or float32 [N, D].
    """
    summing = 1e-5 * length
    if stored.dtype == np.float16:
        return summing + length * 2.0**-11 + np.sqrt(stored.shape[1]) * 2.0**-25
    return summing


def match_problems(images: pa.Table, pairs: pa.Table, pairs_part: str) -> Iterator[str]:
    """Every embedded id must stand in the pairs part, with the same image.

    Args:
        images: an embeddings part; its columns id and image_sha256.
        pairs: the pairs part; the same columns.
        pairs_part: its name.
    """
    ids = images.column("id").combine_chunks()
    where = pc.index_in(ids, value_set=pairs.column("id").combine_chunks())
    if where.null_count:
        first = ids.filter(pc.is_null(where))[0].as_py()
        yield f"ids must be in {pairs_part}, found {where.null_count:,} that are not, {first!r} first"
    matched = pc.is_valid(where)
    ours = images.column("image_sha256").combine_chunks().filter(matched)
    theirs = pairs.column("image_sha256").combine_chunks().take(where.filter(matched))
    same = pc.or_(pc.is_null(theirs), pc.fill_null(pc.equal(ours, theirs), False))
    other = pc.invert(same)  # null where only a later run could read the image
    if count := pc.sum(other).as_py():
        first = ids.filter(matched).filter(other)[0].as_py()
        yield f"images must be those of {pairs_part}, found {count:,} of another sha256, id {first!r} first"


def _content_problems(table: pa.Table, entry: PartEntry) -> Iterator[str]:
    if len(table) != entry.rows:
        yield f"must have {entry.rows:,} rows, found {len(table):,}"
    elif (content := table_digest(table)) != entry.content:
        yield f"content must be {short(entry.content)}, found {short(content)}: its rows were changed"


def _footer_problems(metadata: Mapping[bytes, bytes], expected: Mapping[str, Any]) -> Iterator[str]:
    try:
        footer = dict(json.loads(metadata[FOOTER]))
    except (KeyError, ValueError, TypeError):
        yield "footer must say which unit this is, found none that can be read"
        return
    for name, value in expected.items():
        if footer.get(name) != value:
            yield f"footer: {name} must be {short(value)}, found {short(footer.get(name))}"
