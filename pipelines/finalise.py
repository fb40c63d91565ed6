"""Receipts to a finished store: what is missing, which ids collide, and the manifests last."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from lit_precompute.config import source_facts
from lit_precompute.embed_unit import read_receipt
from lit_precompute.job import VIEWS, Job, finished
from lit_precompute.parts import encode_table
from lit_precompute.plan import Plan
from lit_precompute.publish import remove_folder, replace, sweep
from lit_precompute.receipt import Receipt
from lit_precompute.tally import JUDGED_FROM
from pipelines.collisions import colliding_rows
from pipelines.outcome import Outcome, Status
from schemas.digests import table_digest
from schemas.failures import EXCLUDED_SCHEMA, FAILURES_SCHEMA
from schemas.manifest import ImagesManifest, PairsManifest, PartEntry, content_digest, parts_to_table
from schemas.storage import Folder

READERS = 16  # receipts are small and storage is far


def standing_receipts(job: Job, plan: Plan, accept_damaged: bool | None = None) -> list[Receipt | None]:
    """The receipt of every unit, in plan order; None where the work is still to be done."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda unit: read_receipt(job, unit.name, accept_damaged), plan.units))


def finalise(job: Job, plan: Plan) -> Outcome:
    """Writes the manifests when every unit has a receipt; says what is missing otherwise.

    Safe to call again and again, and after a crash at any point: everything it writes follows from the receipts
    and parts, and the images manifest, which makes the folder count as finished, is written last.
    """
    if (manifest := finished(job)) is not None:
        _clean(job)
        return _outcome(
            job, "complete", dict(manifest.counts), dict(manifest.failures), _stored_captions(job), []
        )
    receipts = [one for one in standing_receipts(job, plan, accept_damaged=True) if one is not None]
    outcome = _judge(job, plan, receipts)
    if outcome.status != "complete":
        return outcome
    return _write(job, plan, receipts)


def _judge(job: Job, plan: Plan, receipts: Sequence[Receipt]) -> Outcome:
    counts, failures = _counts(receipts)
    done = {receipt.unit for receipt in receipts}
    missing = [unit for unit in plan.units if unit.name not in done]
    notes = [_note(job, unit.name) for unit in missing]
    damaged = [receipt for receipt in receipts if receipt.status == "damaged"]
    status: Status = "complete"
    problems = []
    if any(note is not None and note.status == "refused" for note in notes):
        status = "refused"
    elif missing:
        status = "incomplete"
    elif damaged and not job.config.limits.accept_damaged:
        status = "damaged"
    elif (
        counts["seen"] >= JUDGED_FROM
        and counts["failed"] > job.config.limits.max_failure_rate * counts["seen"]
    ):
        status = "too_many_failures"
    for unit, note in zip(missing, notes, strict=True):
        problems.append(f"unit {unit.name}: {note.detail if note else 'not done'}")
    problems += [f"unit {receipt.unit} damaged: {receipt.detail}" for receipt in damaged]
    if status == "incomplete" and all(
        note is not None and "--max-failure-rate" in note.detail for note in notes
    ):
        status = "too_many_failures"
    return _outcome(job, status, counts, failures, _captions(receipts), problems)


def _write(job: Job, plan: Plan, receipts: Sequence[Receipt]) -> Outcome:
    """Pairs, tables, then the images manifest."""
    pairs_parts = [receipt.pairs for receipt in receipts if receipt.pairs is not None]
    images_parts = [receipt.images for receipt in receipts if receipt.images is not None]
    pairs = job.store.child("pairs")
    pairs_content = content_digest(pairs_parts)
    _write_pairs(job, plan, pairs, pairs_parts, receipts, pairs_content)
    excluded, failures = _excluded(pairs, pairs_parts, receipts), _failures(receipts)
    counts = _final_counts(job.images, images_parts, receipts, excluded)
    manifest = ImagesManifest(
        tower_id=job.tower_id,
        tower=job.tower,
        space_id=job.tower.space_id,
        run_id=job.run_id,
        content_id=content_digest(images_parts, pairs_content, table_digest(excluded)),
        dtype=job.config.dtype,
        views=VIEWS,
        plan=plan.digest,
        pairs=pairs_content,
        parts=len(images_parts),
        counts=counts,
        failures=dict(sorted(sum((receipt.reasons() for receipt in receipts), Counter()).items())),
        damaged=[receipt.unit for receipt in receipts if receipt.status == "damaged"],
    )
    for name, table in (
        ("failures.parquet", failures),
        ("excluded.parquet", excluded),
        ("parts.parquet", parts_to_table(images_parts)),
    ):
        replace(job.images, name, encode_table(table))
    _end_run(job, manifest)
    replace(job.images, "manifest.json", manifest.to_json().encode())
    _clean(job)
    damage = [
        f"unit {receipt.unit} damaged, accepted: {receipt.detail}" for receipt in receipts if receipt.detail
    ]
    return _outcome(job, "complete", counts, dict(manifest.failures), _captions(receipts), damage)


def _outcome(
    job: Job,
    status: Status,
    counts: dict[str, int],
    failures: dict[str, int],
    captions: dict[str, int],
    problems: list[str],
) -> Outcome:
    return Outcome(status, counts, failures, captions, problems, job.config.output, job.tower_id)


def _captions(receipts: Sequence[Receipt]) -> dict[str, int]:
    return dict(sorted(sum((Counter(receipt.captions) for receipt in receipts), Counter()).items()))


def _stored_captions(job: Job) -> dict[str, int]:
    pairs = job.store.child("pairs")
    return dict(PairsManifest.from_json(pairs.read("manifest.json"), f"{pairs.path}/manifest.json").counts)


def _write_pairs(
    job: Job, plan: Plan, pairs: Folder, parts: list[PartEntry], receipts: Sequence[Receipt], content: str
) -> None:
    if pairs.exists("manifest.json"):
        standing = PairsManifest.from_json(pairs.read("manifest.json"), f"{pairs.path}/manifest.json")
        if standing.content != content:
            raise ValueError(
                f"{pairs.path}: must hold the pairs these images were embedded from ({content[:12]}…), "
                f"found {standing.content[:12]}…. Embed into another --output."
            )
        return
    counts = {"records": sum(part.rows for part in parts), **_captions(receipts)}
    manifest = PairsManifest(plan.digest, source_facts(job.config.source), content, len(parts), counts)
    replace(pairs, "parts.parquet", encode_table(parts_to_table(parts)))
    replace(pairs, "manifest.json", manifest.to_json().encode())


def _excluded(pairs: Folder, parts: list[PartEntry], receipts: Sequence[Receipt]) -> pa.Table:
    """Every row whose id was taken: inside its unit (it is in no part), or by an earlier unit."""
    rows: list[dict[str, Any]] = [
        {
            "id": duplicate.id,
            "part": None,
            "unit": receipt.unit,
            "locator": duplicate.locator,
            "kept_in": receipt.pairs.name if receipt.pairs else None,
        }
        for receipt in receipts
        for duplicate in receipt.duplicates
    ]
    rows += colliding_rows(pairs, parts)
    return pa.Table.from_pylist(rows, schema=EXCLUDED_SCHEMA)


def _failures(receipts: Sequence[Receipt]) -> pa.Table:
    rows = [
        {"unit": receipt.unit, **failure.to_json()} for receipt in receipts for failure in receipt.failures
    ]
    return pa.Table.from_pylist(rows, schema=FAILURES_SCHEMA)


def _counts(receipts: Sequence[Receipt]) -> tuple[dict[str, int], dict[str, int]]:
    counts = {
        "seen": sum(receipt.seen for receipt in receipts),
        "embedded": sum(receipt.embedded for receipt in receipts),
        "failed": sum(len(receipt.failures) for receipt in receipts),
        "duplicate": sum(len(receipt.duplicates) for receipt in receipts),
    }
    return counts, dict(sum((receipt.reasons() for receipt in receipts), Counter()))


def _final_counts(
    images: Folder, parts: list[PartEntry], receipts: Sequence[Receipt], excluded: pa.Table
) -> dict[str, int]:
    """Counts after exclusions across units: seen = embedded + failed + duplicate still holds."""
    counts, _ = _counts(receipts)
    by_part: dict[str, set[str]] = {}
    for row in excluded.to_pylist():
        if row["part"] is not None:
            by_part.setdefault(row["part"], set()).add(row["id"])
    for part in parts:
        if part.pairs_part in by_part:
            ids = set(images.read_table(part.name).column("id").to_pylist())
            with_vector = len(ids & by_part[part.pairs_part])
            counts["embedded"] -= with_vector
            counts["duplicate"] += with_vector
    failed = {(receipt.unit, failure.id) for receipt in receipts for failure in receipt.failures}
    for row in excluded.to_pylist():
        if row["part"] is not None and (row["unit"], row["id"]) in failed:
            counts["failed"] -= 1
            counts["duplicate"] += 1
    return counts


def _note(job: Job, unit_name: str) -> Receipt | None:
    """Why a unit has no receipt, when an attempt could say."""
    try:
        note = Receipt.from_json(job.receipts.read(f"{unit_name}.note"))
    except (FileNotFoundError, ValueError):
        return None
    return note if note.run_id == job.run_id else None


def _end_run(job: Job, manifest: ImagesManifest) -> None:
    facts = json.loads(job.images.read("run.json"))
    facts["ended"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    facts["counts"] = dict(manifest.counts)
    replace(job.images, "run.json", (json.dumps(facts, indent=2) + "\n").encode())


def _clean(job: Job) -> None:
    """Takes down the scaffolding: receipts, notes, heartbeats, temporary files of dead attempts."""
    remove_folder(job.receipts)
    for folder in (job.images, job.store.child("pairs")):
        sweep(folder)
