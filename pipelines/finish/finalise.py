"""Receipts to a finished store: what is missing, which ids collide, and the manifests last."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace as replace_fields

import pyarrow as pa

from lit_precompute.job import Job, finished, standing_manifest
from lit_precompute.lease import remove_dead
from lit_precompute.parts import encode_table
from lit_precompute.plan import Plan
from lit_precompute.publish import remove_folder, replace, sweep
from lit_precompute.receipt import Receipt
from lit_precompute.tally import JUDGED_FROM
from lit_precompute.units import Unit
from lit_precompute.views import view_rules
from pipelines.finish.collisions import distinct_images
from pipelines.finish.counts import (
    added,
    captions_of,
    counts_of,
    excluded_rows,
    failure_rows,
    final_counts,
)
from pipelines.finish.pairs import stored_captions, write_pairs
from pipelines.finish.receipts import discard_altered, note_of, standing_receipts
from pipelines.finish.standing import (
    Standing,
    remove_stale_retries,
    remove_stale_tables,
    standing,
    standing_pairs,
    tables_of,
    units_to_do,
)
from pipelines.outcome import Outcome, Status
from schemas.digests import table_digest
from schemas.manifest import ImagesManifest, content_digest, parts_to_table


def finalise(job: Job, plan: Plan) -> Outcome:
    """Writes the manifests when every unit has a receipt; says what is missing otherwise.

    Safe to call again and again, and after a crash at any point: everything it writes follows from the receipts
    and parts, and the images manifest, which makes the folder count as finished, is written last. Where inputs were
    appended, what the standing manifest says is added to, and the manifest swapped in one step. A launch that does a
    range of the units never finishes the store: another one may be at work beside it.
    """
    if (manifest := finished(job)) is not None:
        clean(job)
        return _outcome(
            job, "complete", dict(manifest.counts), dict(manifest.failures), stored_captions(job), []
        )
    before = standing(job, plan)
    units = [unit for _, unit in units_to_do(job, plan)]
    receipts = [one for one in standing_receipts(job, units, accept_damaged=True) if one is not None]
    outcome = _judge(job, units, receipts, before)
    if outcome.status == "complete" and job.config.work.shard_range is not None:
        return replace_fields(outcome, status="range_done")
    if outcome.status == "complete" and (altered := discard_altered(job, receipts)):
        receipts = [receipt for receipt in receipts if receipt.unit not in altered]
        outcome = _judge(job, units, receipts, before)
    if outcome.status != "complete":
        return outcome
    return _write(job, plan, receipts, before)


def _judge(job: Job, units: Sequence[Unit], receipts: Sequence[Receipt], before: Standing | None) -> Outcome:
    counts, failures = counts_of(receipts)
    done = {receipt.unit for receipt in receipts}
    missing = [unit for unit in units if unit.name not in done]
    notes = [note_of(job, unit.name) for unit in missing]
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
    if before is not None:
        counts = added(before.manifest.counts, counts, counts)
        failures = added(before.manifest.failures, failures)
    return _outcome(job, status, counts, failures, captions_of(receipts), problems)


def _write(job: Job, plan: Plan, receipts: Sequence[Receipt], before: Standing | None) -> Outcome:
    """Pairs, tables, then the images manifest."""
    images_parts = [receipt.images for receipt in receipts if receipt.images is not None]
    reasons = dict(sum((receipt.reasons() for receipt in receipts), Counter()))
    damaged = [receipt.unit for receipt in receipts if receipt.status == "damaged"]
    pairs, pairs_parts = job.store.child("pairs"), write_pairs(job, plan, receipts, before)
    pairs_content = content_digest(pairs_parts)
    excluded, failures = excluded_rows(pairs, pairs_parts, receipts, before), failure_rows(receipts)
    counts = final_counts(job.images, images_parts, receipts, excluded)
    if before is not None:
        images_parts = [*before.parts, *images_parts]
        failures = pa.concat_tables([before.failures, failures])
        damaged = [*before.manifest.damaged, *damaged]
        counts = added(before.manifest.counts, counts, counts)
        reasons = added(before.manifest.failures, reasons)
    counts["distinct_images"] = distinct_images(job.images, images_parts, excluded)
    tables = tables_of(plan)
    manifest = ImagesManifest(
        tower_id=job.tower_id,
        tower=job.tower,
        space_id=job.tower.space_id,
        run_id=job.run_id,
        content_id=content_digest(images_parts, pairs_content, table_digest(excluded)),
        dtype=job.config.dtype,
        views=job.config.views,
        view_rules=view_rules(job.config.views),
        plan=plan.digest,
        pairs=pairs_content,
        parts=len(images_parts),
        counts=counts,
        failures=dict(sorted(reasons.items())),
        damaged=damaged,
        tables=tables,
    )
    for name, table in (
        ("failures", failures),
        ("excluded", excluded),
        ("parts", parts_to_table(images_parts)),
    ):
        replace(job.images, f"{name}{tables}.parquet", encode_table(table))
    end_run(job, manifest)
    replace(job.images, "manifest.json", manifest.to_json().encode())
    clean(job)
    damage = [
        f"unit {receipt.unit} damaged, accepted: {receipt.detail}" for receipt in receipts if receipt.detail
    ]
    return _outcome(job, "complete", counts, dict(manifest.failures), stored_captions(job), damage)


def _outcome(
    job: Job,
    status: Status,
    counts: dict[str, int],
    failures: dict[str, int],
    captions: dict[str, int],
    problems: list[str],
) -> Outcome:
    return Outcome(status, counts, failures, captions, problems, job.config.output, job.tower_id)


def end_run(job: Job, manifest: ImagesManifest) -> None:
    facts = json.loads(job.images.read("run.json"))
    facts["ended"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    facts["counts"] = dict(manifest.counts)
    replace(job.images, "run.json", (json.dumps(facts, indent=2) + "\n").encode())


def clean(job: Job) -> None:
    """Takes down the scaffolding: receipts, notes, heartbeats, temporary files, tables of manifests before."""
    remove_folder(job.receipts)
    pairs = job.store.child("pairs")
    if (found := standing_pairs(pairs)) is not None:
        remove_stale_tables(pairs, found.tables)
    if (manifest := standing_manifest(job)) is not None:
        remove_stale_tables(job.images, manifest.tables)
        remove_stale_retries(job.images, manifest)
    remove_dead(job.store)
    for folder in (job.store, job.images, pairs):
        sweep(folder)
