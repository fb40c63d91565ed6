"""One unit of input becomes one part of pairs, one part of embeddings, one receipt: the heart of stage 1."""

import errno
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from lit_precompute.attempt import Attempt
from lit_precompute.config import EmbedConfig
from lit_precompute.decode import DecodeLimits
from lit_precompute.decode_pool import DecodePool
from lit_precompute.embedder import Embedder
from lit_precompute.equal_images import EqualImages
from lit_precompute.job import Job, finished
from lit_precompute.parts import embeddings_table, entry_of, publish_part, read_part
from lit_precompute.plan import Unit
from lit_precompute.prepare import failure_of
from lit_precompute.publish import publish, remove
from lit_precompute.publish import replace as replace_file
from lit_precompute.receipt import Receipt
from lit_precompute.sources import SOURCES
from lit_precompute.tally import Tally
from lit_precompute.vectors import vectors_problem
from schemas.manifest import PartEntry
from schemas.pairs import PAIRS_SCHEMA
from schemas.storage import Folder

log = logging.getLogger(__name__)

READ_ATTEMPTS = 4  # of a whole unit, when storage fails; waits 1, 2, 4 s, each ± half


def embed_unit(
    job: Job, unit: Unit, embedder: Embedder, on_progress: Callable[[int], None] = lambda seen: None
) -> Receipt:
    """Embeds one unit, or finds that it is done already.

    Trouble with one record costs that record; trouble with the input or the storage ends in a receipt that says
    so. Nothing of this is raised: an engine would retry the unit blindly, or give up the whole job.

    Args:
        job: what every unit has in common.
        unit: which input.
        embedder: the loaded tower.
        on_progress: told how many records of this unit are through, now and then.

    Returns:
        The receipt; it has also been published when the unit is done or damaged.
    """
    for attempt in range(READ_ATTEMPTS):
        try:
            if (standing := read_receipt(job, unit.name)) is not None:
                return standing
            if (adopted := _adopt(job, unit)) is not None:
                return _leave_receipt(job, adopted)
            with Attempt(job.receipts, unit.name) as mark:
                isolated = job.isolate_decoding or mark.after_death
                receipt = _embed(job, unit, embedder, on_progress, isolated)
            late = not unit.retry and finished(job) is not None
            return receipt if late else _leave_receipt(job, receipt)
        except OSError as error:
            detail = f"{type(error).__name__}: {error}"
            if not _worth_retrying(error) or attempt == READ_ATTEMPTS - 1:
                break
            log.warning("%s: %s; trying again", unit.name, detail)
            time.sleep(2**attempt * random.uniform(0.5, 1.5))
        except _RefusedError as error:
            return _leave_note(job, Receipt(unit.name, job.run_id, "refused", detail=str(error)))
    return _leave_note(job, Receipt(unit.name, job.run_id, "failed", detail=detail))


def read_receipt(job: Job, unit_name: str, accept_damaged: bool | None = None) -> Receipt | None:
    """The unit's receipt of this run, or None when there is none or the parts it names are gone or cut short.

    A damaged unit's receipt counts only when `accept_damaged` (default: as the job says): the input may be whole
    by the next run.
    """
    if accept_damaged is None:
        accept_damaged = job.config.limits.accept_damaged
    try:
        receipt = Receipt.from_json(job.receipts.read(f"{unit_name}.json"))
    except (FileNotFoundError, ValueError):
        return None
    if receipt.run_id != job.run_id or not receipt.published:
        return None
    if receipt.status == "damaged" and not accept_damaged:
        return None
    for folder, part in ((job.store.child("pairs"), receipt.pairs), (job.images, receipt.images)):
        if part is not None and not _has_size(folder, part.name, part.bytes):
            return None
    return receipt


def refuse_unit(job: Job, unit: Unit, detail: str) -> Receipt:
    """A unit that a worker will not do, with why; the launcher's summary says so."""
    return _leave_note(job, Receipt(unit.name, job.run_id, "refused", detail=detail))


def take_back(job: Job, receipt: Receipt, detail: str) -> None:
    """Makes a unit count as not done: its receipt is removed, and a note says why."""
    remove(job.receipts, f"{receipt.unit}.json")
    _leave_note(job, Receipt(receipt.unit, job.run_id, "failed", detail=detail))


class _RefusedError(Exception):
    """The input is not what the store was made from."""


def _adopt(job: Job, unit: Unit) -> Receipt | None:
    """The receipt in the footer of a whole part of this run, left by an attempt that died before its receipt."""
    name = f"embeddings-{unit.name}.parquet"
    found = read_part(job.images, name)
    if found is None or found[1].get("run_id") != job.run_id:
        return None
    table, footer = found
    try:
        receipt = Receipt.from_json(footer["receipt"])
    except (KeyError, ValueError):
        return None
    if receipt.status != "done" or receipt.pairs is None:
        return None
    pairs = read_part(job.store.child("pairs"), receipt.pairs.name)
    if pairs is None or pairs[1]["content"] != receipt.pairs.content:
        return None
    return receipt.with_images(entry_of(job.images, name, unit.planned_name, table, receipt.pairs.name))


def _leave_receipt(job: Job, receipt: Receipt) -> Receipt:
    """Leaves the receipt; of a unit that was not published, a note."""
    name, note, data = f"{receipt.unit}.json", f"{receipt.unit}.note", receipt.to_json().encode()
    if not receipt.published:
        return _leave_note(job, receipt)
    if not publish(
        job.receipts, name, data
    ):  # of a damaged or cut-short attempt: read_receipt did not accept it
        replace_file(job.receipts, name, data)
    remove(job.receipts, note)
    return receipt


def _leave_note(job: Job, receipt: Receipt) -> Receipt:
    """Says beside a receipt's place why there is none, for the summary; storage that refuses even this is logged."""
    try:
        replace_file(job.receipts, f"{receipt.unit}.note", receipt.to_json().encode())
    except OSError as error:
        log.error("%s: %s; no note could be left: %s", receipt.unit, receipt.detail, error)
    return receipt


def _embed(
    job: Job, unit: Unit, embedder: Embedder, on_progress: Callable[[int], None], isolated: bool
) -> Receipt:
    """Reads, decodes, embeds and writes one unit."""
    tally = Tally(job.config.limits.max_failure_rate if not unit.retry else 1.0)
    rows: list[tuple[int, str, bytes, np.ndarray]] = []  # position, id, sha256, vectors of its views
    source, config = SOURCES[job.config.source.format], job.config
    read = source.read_unit(unit, config.source, job.storage_options, config.limits.max_bytes)
    wanted = (record for record in islice(read, unit.limit) if unit.wants(record.position))
    records = tally.accept(wanted)
    equal = EqualImages(config.work.dedup_exact)
    with DecodePool(
        config.work.decode_threads,
        embedder.tower.preprocess,
        _limits(config),
        config.limits.decode_timeout,
        isolated,
        config.views,
    ) as pool:
        images = equal.first(tally.images(pool.stream(records)))
        for item, vectors in equal.spread(embedder.stream_views(images)):
            on_progress(tally.seen)
            if problem := vectors_problem(vectors, config.dtype):
                tally.failures.append(failure_of(item.record, "embed", *problem))
            else:
                assert item.record.id is not None
                rows.append((item.record.position, item.record.id, item.sha256, vectors))
    if tally.too_many:
        return Receipt(unit.name, job.run_id, "failed", seen=tally.seen, detail=tally.too_many)
    rows.sort(key=lambda row: row[0])
    publish_rows = _publish_retried if unit.retry else _publish
    return publish_rows(job, unit, tally, [row[1:] for row in rows])


def _publish(job: Job, unit: Unit, tally: Tally, rows: list[tuple[str, bytes, np.ndarray]]) -> Receipt:
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


def _publish_retried(
    job: Job, unit: Unit, tally: Tally, rows: list[tuple[str, bytes, np.ndarray]]
) -> Receipt:
    """A part of the recovered rows alone; their pairs stand already."""
    folder, name = job.store.child("pairs"), f"pairs-{unit.planned_name}.parquet"
    found = read_part(folder, name)
    if found is None:
        raise _RefusedError(f"{name}: must be a whole part, found it damaged or gone. Restore it.")
    pairs = found[0]
    known = dict(zip(pairs["id"].to_pylist(), pairs["image_sha256"].to_pylist(), strict=True))
    for id, digest, _ in rows:
        if id not in known or known[id] not in (None, digest):
            what = "stand there" if id not in known else "have the image it had"
            raise _RefusedError(
                f"{name}: {id!r} must {what}, found otherwise. The input changed; restore it."
            )
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


def _publish_images(
    job: Job, unit: Unit, receipt: Receipt, rows: list[tuple[str, bytes, np.ndarray]]
) -> Receipt:
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
    """Raises _RefusedError when the folder is finished: an attempt that comes this late has no say."""
    if finished(job) is not None:
        raise _RefusedError("the store was finished by another attempt, which read other rows")


def _same_pairs(folder: Folder, name: str, unit: Unit, table: pa.Table) -> PartEntry:
    """The standing pairs part, when it has our ids and images; else _RefusedError naming the first difference."""
    found = read_part(folder, name)
    if found is None:
        raise _RefusedError(
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
            raise _RefusedError(
                f"{name} row {row}: {what} must be what the first tower saw ({_short(b)}), found {_short(a)}. "
                "The input changed; write to another --output."
            )
    if len(ours) != len(theirs):
        raise _RefusedError(
            f"{name}: the input must give {len(theirs)} records as for the first tower, found {len(ours)}. "
            "The input changed; write to another --output."
        )
    return entry_of(folder, name, unit.name, standing, None)


def _short(row: dict[str, Any]) -> str:
    return f"{row['id']!r} {row['image_sha256'].hex()[:8] if row['image_sha256'] else 'no image'}"


def _limits(config: EmbedConfig) -> DecodeLimits:
    return DecodeLimits(max_pixels=config.limits.max_pixels, max_bytes=config.limits.max_bytes)


def _has_size(folder: Folder, name: str, size: int) -> bool:
    return folder.size(name) == size


def _worth_retrying(error: OSError) -> bool:
    """A full disk, a changed input, a missing file or right stay what they are; everything else may pass."""
    final = (errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EDQUOT)
    return not isinstance(error, FileNotFoundError | PermissionError) and error.errno not in final
