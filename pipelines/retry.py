"""`--retry-failed`: failed records are tried again, and a finished store swapped for one that has those recovered."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace as replace_fields
from typing import Any

import pyarrow as pa

from lit_precompute.job import Job, finished, standing_manifest
from lit_precompute.parts import encode_table
from lit_precompute.plan import Plan
from lit_precompute.publish import replace
from lit_precompute.receipt import Receipt
from lit_precompute.units import Unit
from pipelines.finish.collisions import distinct_images
from pipelines.finish.finalise import clean, end_run, finalise
from pipelines.finish.receipts import discard_altered, note_of, standing_receipts
from pipelines.finish.standing import Standing, retries_in, standing, tables_of
from pipelines.outcome import Outcome, Status
from schemas.digests import table_digest
from schemas.failures import FAILURES_SCHEMA
from schemas.manifest import PartEntry, content_digest, parts_to_table


def open_retry(job: Job, plan: Plan) -> Job:
    """The job as a retry with a number of its own; decoding is isolated, as some records may have ended a process.

    Raises:
        ValueError: the store is not finished.
    """
    found = standing(job, plan)
    if found is None or finished(job) is None:
        raise ValueError(
            f"--retry-failed: {job.images.path} must be finished, found it unfinished. Run the same command "
            "without the flag first."
        )
    number = 1 + max(retries_in(part.name for part in found.parts), retries_in([found.manifest.tables]))
    return replace_fields(job, retry=number, isolate_decoding=True)


def records_to_retry(job: Job, plan: Plan) -> dict[str, set[int]]:
    """Positions by unit of the failed records to try again: those with an id that is theirs and a chosen reason."""
    found = standing(job, plan)
    if found is None:
        return {}
    taken = {(row["unit"], row["id"]) for row in found.excluded.to_pylist() if row["part"] is not None}
    reasons = set(job.config.work.retry_reasons)
    wanted: dict[str, set[int]] = {}
    for row in found.failures.to_pylist():
        if row["reason"] in reasons and row["id"] is not None and (row["unit"], row["id"]) not in taken:
            wanted.setdefault(row["unit"], set()).add(row["position"])
    return wanted


def units_to_retry(job: Job, plan: Plan, wanted: Collection[str]) -> list[tuple[int, Unit]]:
    """The units with such records, each with its place in the plan."""
    return [
        (place, replace_fields(unit, retry=job.retry))
        for place, unit in enumerate(plan.units)
        if unit.name in wanted
    ]


def finish_retry(job: Job, plan: Plan) -> Outcome:
    """Swaps the manifest when every unit of the retry has a receipt; says what is missing otherwise.

    Tables are written under names that the standing manifest does not use, so that replacing it is the one step
    between the store before and the store after. Safe to call again and again.
    """
    found = standing(job, plan)
    assert found is not None
    if retries_in([found.manifest.tables]) >= job.retry:
        return finalise(job, plan)
    units = [unit for _, unit in units_to_retry(job, plan, records_to_retry(job, plan))]
    standing_ones = standing_receipts(job, units)
    receipts = [receipt for receipt in standing_ones if receipt is not None]
    altered = discard_altered(job, receipts)
    receipts = [receipt for receipt in receipts if receipt.unit not in altered]
    if len(receipts) < len(units):
        return _incomplete(job, found, units, receipts)
    if units:
        _swap(job, plan, found, receipts)
        clean(job)
    return finalise(job, plan)


def _incomplete(job: Job, found: Standing, units: Sequence[Unit], receipts: Sequence[Receipt]) -> Outcome:
    done = {receipt.unit for receipt in receipts}
    notes = {unit.name: note_of(job, unit.name) for unit in units if unit.name not in done}
    refused = any(note is not None and note.status == "refused" for note in notes.values())
    status: Status = "refused" if refused else "incomplete"
    problems = [f"unit {name}: {note.detail if note else 'not done'}" for name, note in notes.items()]
    problems.append("the store stands as it was before the retry")
    counts, failures = dict(found.manifest.counts), dict(found.manifest.failures)
    return Outcome(status, counts, failures, {}, problems, job.config.output, job.tower_id)


def _swap(job: Job, plan: Plan, found: Standing, receipts: Sequence[Receipt]) -> None:
    parts = _parts(found.parts, receipts)
    failures = _failures(job, found.failures, receipts)
    recovered = sum(receipt.embedded for receipt in receipts)
    counts = dict(found.manifest.counts)
    counts["embedded"] += recovered
    counts["failed"] -= recovered
    counts["distinct_images"] = distinct_images(job.images, parts, found.excluded)
    manifest = replace_fields(
        found.manifest,
        content_id=content_digest(parts, found.manifest.pairs, table_digest(found.excluded)),
        parts=len(parts),
        counts=counts,
        failures=dict(sorted(Counter(failures["reason"].to_pylist()).items())),
        tables=f"{tables_of(plan)}-r{job.retry:03d}",
    )
    for name, table in (
        ("failures", failures),
        ("excluded", found.excluded),
        ("parts", parts_to_table(parts)),
    ):
        replace(job.images, f"{name}{manifest.tables}.parquet", encode_table(table))
    end_run(job, manifest)
    replace(job.images, "manifest.json", manifest.to_json().encode())


def _parts(standing_parts: Sequence[PartEntry], receipts: Sequence[Receipt]) -> list[PartEntry]:
    """The parts in plan order, those of a retry after the others of their unit."""
    new = [receipt.images for receipt in receipts if receipt.images is not None]
    known = {part.name for part in standing_parts}
    return sorted([*standing_parts, *(part for part in new if part.name not in known)], key=_place)


def _place(part: PartEntry) -> tuple[int, int, int]:
    generation, number = part.unit.removeprefix("g").split("-")[:2]
    return int(generation), int(number), retries_in([part.name])


def _failures(job: Job, before: pa.Table, receipts: Sequence[Receipt]) -> pa.Table:
    """The failures, without records that were recovered, and with what was found this time for the others."""
    recovered: set[tuple[str, str]] = set()
    again: dict[tuple[str, int], dict[str, Any]] = {}
    for receipt in receipts:
        assert receipt.pairs is not None
        unit = receipt.pairs.unit
        if receipt.images is not None:
            ids = job.images.read_column(receipt.images.name, "id").to_pylist()
            recovered.update((unit, id) for id in ids)
        for failure in receipt.failures:
            again[unit, failure.position] = {"unit": unit, **failure.to_json()}
    rows = [
        again.get((row["unit"], row["position"]), row)
        for row in before.to_pylist()
        if (row["unit"], row["id"]) not in recovered
    ]
    return pa.Table.from_pylist(rows, schema=FAILURES_SCHEMA)


def counted(job: Job, before: int) -> str:
    """What the retry came to, in words.

    Args:
        job: after the swap.
        before: failed records before it.
    """
    manifest = standing_manifest(job)
    assert manifest is not None
    left = manifest.counts["failed"]
    return f"retried    {before - left:,} of {before:,} failed records recovered"
