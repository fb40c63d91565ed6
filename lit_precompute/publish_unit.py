"""What came of a unit becomes its parts: pairs first, then embeddings, whose footer holds the receipt."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from lit_precompute.job import Job, finished
from lit_precompute.parts import embeddings_table, entry_of, publish_part, read_part
from lit_precompute.receipt import Receipt
from lit_precompute.tally import Tally
from lit_precompute.units import Unit
from schemas.manifest import PartEntry
from schemas.pairs import PAIRS_SCHEMA
from schemas.storage import Folder

Rows = list[tuple[str, bytes, np.ndarray]]  # id, sha256, vectors of its views: float32 [V, D]


class RefusedError(Exception):
    """The input is not what the store was made from."""


def publish_unit(job: Job, unit: Unit, tally: Tally, rows: Rows) -> Receipt:
    """Pairs first, then embeddings, whose footer holds the receipt: what stands is always explained."""
    receipt = Receipt(
        unit=unit.name,
        run_id=job.run_id,
        status="damaged" if tally.damage else "done",
        seen=tally.seen,
        embedded=len(rows),
        captions=dict(tally.captions),
        failures=tuple(sorted(tally.failures, key=lambda failure: failure.position)),
        duplicates=tuple(tally.duplicates),
        detail=tally.damage,
    )
    if not tally.pairs:
        return receipt
    folder, name = job.store.child("pairs"), f"pairs-{unit.name}.parquet"
    table = pa.Table.from_pylist(tally.pairs, schema=PAIRS_SCHEMA)
    if job.writes_pairs(unit):
        footer = {"unit": unit.name, "rows": len(table)}
        part = publish_part(folder, name, unit.name, table, footer, None, partial(_demand_unfinished, job))
        receipt = replace(receipt, pairs=part)
    else:
        receipt = replace(receipt, pairs=_same_pairs(folder, name, unit, table))
    return receipt if not rows else _publish_images(job, unit, receipt, rows)


def publish_retried(job: Job, unit: Unit, tally: Tally, rows: Rows) -> Receipt:
    """A part of the recovered rows alone; their pairs stand already."""
    folder, name = job.store.child("pairs"), f"pairs-{unit.planned_name}.parquet"
    found = read_part(folder, name)
    if found is None:
        raise RefusedError(f"{name}: must be a whole part, found it damaged or gone. Restore it.")
    pairs = found[0]
    known = dict(zip(pairs["id"].to_pylist(), pairs["image_sha256"].to_pylist(), strict=True))
    for id, digest, _ in rows:
        if id not in known or known[id] not in (None, digest):
            what = "stand there" if id not in known else "have the image it had"
            raise RefusedError(f"{name}: {id!r} must {what}, found otherwise. The input changed; restore it.")
    receipt = Receipt(
        unit=unit.name,
        run_id=job.run_id,
        status="done",
        seen=tally.seen,
        embedded=len(rows),
        failures=tuple(sorted(tally.failures, key=lambda failure: failure.position)),
        pairs=entry_of(folder, name, unit.planned_name, pairs, None),
    )
    return receipt if not rows else _publish_images(job, unit, receipt, rows)


def _publish_images(job: Job, unit: Unit, receipt: Receipt, rows: Rows) -> Receipt:
    """The embeddings part, whose footer holds the receipt."""
    ids, digests, vectors = zip(*rows, strict=True)
    views, dtype = job.config.views, job.config.dtype
    embeddings = embeddings_table(list(ids), views, list(digests), np.concatenate(vectors), dtype)
    footer = {
        "run_id": job.run_id,
        "unit": unit.planned_name,
        "rows": len(embeddings),
        "receipt": receipt.to_json(),
    }
    name = f"embeddings-{unit.name}.parquet"
    assert receipt.pairs is not None
    part = publish_part(
        job.images,
        name,
        unit.planned_name,
        embeddings,
        footer,
        receipt.pairs.name,
        partial(_demand_unfinished, job) if not unit.retry else lambda: None,
    )
    return receipt.with_images(part)


def _demand_unfinished(job: Job) -> None:
    """Raises RefusedError when the folder is finished: an attempt that comes this late has no say."""
    if finished(job) is not None:
        raise RefusedError("the store was finished by another attempt, which read other rows")


def _same_pairs(folder: Folder, name: str, unit: Unit, table: pa.Table) -> PartEntry:
    """The standing pairs part, when it has our ids and images; else RefusedError naming the first difference."""
    found = read_part(folder, name)
    if found is None:
        raise RefusedError(
            f"{name}: must be the whole part that the first tower's run wrote, found it damaged or gone. "
            "lit-store verify says which files to restore, or to delete so that they are made again."
        )
    standing = found[0].select(PAIRS_SCHEMA.names)
    ours = table.select(["id", "image_sha256"]).to_pylist()
    theirs = standing.select(["id", "image_sha256"]).to_pylist()
    for row, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        unread = None in (a["image_sha256"], b["image_sha256"])  # storage stumbled then, or now
        if a["id"] != b["id"] or (a != b and not unread):
            what = "id" if a["id"] != b["id"] else f"image of {a['id']!r}"
            raise RefusedError(
                f"{name} row {row}: {what} must be what the first tower saw ({_short(b)}), found {_short(a)}. "
                "The input changed; write to another --output."
            )
    if len(ours) != len(theirs):
        raise RefusedError(
            f"{name}: the input must give {len(theirs)} records as for the first tower, found {len(ours)}. "
            "The input changed; write to another --output."
        )
    return entry_of(folder, name, unit.name, standing, None)


def _short(row: dict[str, Any]) -> str:
    return f"{row['id']!r} {row['image_sha256'].hex()[:8] if row['image_sha256'] else 'no image'}"
