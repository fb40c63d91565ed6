"""Receipts to a finished store: what is missing, which ids collide, and the manifests last."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace as replace_fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lit_precompute.config import source_facts
from lit_precompute.embed_unit import read_receipt, take_back
from lit_precompute.job import Job, finished, standing_manifest
from lit_precompute.lease import remove_dead
from lit_precompute.parts import encode_table
from lit_precompute.plan import Plan
from lit_precompute.publish import remove_folder, replace, sweep
from lit_precompute.receipt import Receipt
from lit_precompute.tally import JUDGED_FROM
from lit_precompute.units import Unit
from pipelines.collisions import colliding_rows, distinct_images, exclusions_by_part
from pipelines.outcome import Outcome, Status
from pipelines.standing import (
    Standing,
    remove_stale_retries,
    remove_stale_tables,
    standing,
    standing_pairs,
    tables_of,
    units_to_do,
)
from schemas.digests import table_digest
from schemas.failures import EXCLUDED_SCHEMA, FAILURES_SCHEMA
from schemas.manifest import (
    ImagesManifest,
    PairsManifest,
    PartEntry,
    content_digest,
    contents_by_generation,
    generation_of,
    parts_from_table,
    parts_to_table,
)
from schemas.storage import Folder

READERS = 16  # receipts are small and storage is far


def standing_receipts(
    job: Job, units: Sequence[Unit], accept_damaged: bool | None = None
) -> list[Receipt | None]:
    """The receipt of each unit; None where the work is still to be done."""
    there = job.receipts.sizes()  # a listing, so that a fresh run of 10⁵ units does not ask for each
    candidates = [unit.name for unit in units if f"{unit.name}.json" in there]
    with ThreadPoolExecutor(READERS) as pool:
        receipts = pool.map(lambda name: read_receipt(job, name, accept_damaged), candidates)
        found = dict(zip(candidates, receipts, strict=True))
    return [found.get(unit.name) for unit in units]


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
            job, "complete", dict(manifest.counts), dict(manifest.failures), _stored_captions(job), []
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


def discard_altered(job: Job, receipts: Sequence[Receipt]) -> set[str]:
    """Units of which a part is no longer the file that was published; their receipts are taken back.

    Whatever storage does between a part and the manifest (another attempt that wins late, a disk that forgets), what
    the manifest names has been read once as it stands. Parts are small beside the images they were made from.
    """
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda receipt: _alteration(job, receipt), receipts))
    for receipt, detail in zip(receipts, found, strict=True):
        if detail:
            take_back(job, receipt, detail)
    return {receipt.unit for receipt, detail in zip(receipts, found, strict=True) if detail}


def _alteration(job: Job, receipt: Receipt) -> str:
    for folder, part in ((job.store.child("pairs"), receipt.pairs), (job.images, receipt.images)):
        if part is None:
            continue
        try:
            digest = folder.sha256(part.name)
        except FileNotFoundError:
            return f"{part.name}: gone after it was published"
        if digest != part.sha256:
            return (
                f"{part.name}: changed after it was published (sha256 must be {part.sha256[:12]}…, found "
                f"{digest[:12]}…)"
            )
    return ""


def _judge(job: Job, units: Sequence[Unit], receipts: Sequence[Receipt], before: Standing | None) -> Outcome:
    counts, failures = _counts(receipts)
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
        counts = _sum(before.manifest.counts, counts, counts)
        failures = _sum(before.manifest.failures, failures)
    return _outcome(job, status, counts, failures, _captions(receipts), problems)


def _write(job: Job, plan: Plan, receipts: Sequence[Receipt], before: Standing | None) -> Outcome:
    """Pairs, tables, then the images manifest."""
    images_parts = [receipt.images for receipt in receipts if receipt.images is not None]
    reasons = dict(sum((receipt.reasons() for receipt in receipts), Counter()))
    damaged = [receipt.unit for receipt in receipts if receipt.status == "damaged"]
    pairs, pairs_parts = job.store.child("pairs"), _write_pairs(job, plan, receipts, before)
    pairs_content = content_digest(pairs_parts)
    excluded, failures = _excluded(pairs, pairs_parts, receipts, before), _failures(receipts)
    counts = _final_counts(job.images, images_parts, receipts, excluded)
    if before is not None:
        images_parts = [*before.parts, *images_parts]
        failures = pa.concat_tables([before.failures, failures])
        damaged = [*before.manifest.damaged, *damaged]
        counts = _sum(before.manifest.counts, counts, counts)
        reasons = _sum(before.manifest.failures, reasons)
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
    return _outcome(job, "complete", counts, dict(manifest.failures), _stored_captions(job), damage)


def _sum(
    ours: Mapping[str, int], theirs: Mapping[str, int], names: Iterable[str] | None = None
) -> dict[str, int]:
    """Counts of both, by name; of the names given, or all."""
    wanted = {**ours, **theirs} if names is None else names
    return {name: ours.get(name, 0) + theirs.get(name, 0) for name in wanted}


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
    job: Job, plan: Plan, receipts: Sequence[Receipt], before: Standing | None
) -> list[PartEntry]:
    """Writes the text side's manifest unless it stands; gives all parts that these images were embedded from."""
    pairs = job.store.child("pairs")
    found = standing_pairs(pairs)
    known = [] if found is None else parts_from_table(pairs.read_table(f"parts{found.tables}.parquet"))
    done = -1 if before is None else before.generation
    parts = [part for part in known if generation_of(part.unit) <= done]
    parts += [receipt.pairs for receipt in receipts if receipt.pairs is not None]
    if before is not None and before.manifest.pairs not in contents_by_generation(parts):
        raise ValueError(
            f"{pairs.path}: must hold the pairs of the units before those that were appended "
            f"({before.manifest.pairs[:12]}…), found others or none. Restore it, or delete "
            f"{job.images.path}/manifest.json so that they are made again."
        )
    content = content_digest(parts)
    if found is not None and content in contents_by_generation(known):
        return parts  # another tower wrote them, perhaps with more that was appended since
    counted = -1
    if found is not None:
        if found.content not in (generations := contents_by_generation(parts)):
            raise ValueError(
                f"{pairs.path}: must hold the pairs these images were embedded from ({content[:12]}…), "
                f"found {found.content[:12]}…. Embed into another --output."
            )
        counted = generations[found.content]
    new = [receipt for receipt in receipts if generation_of(receipt.unit) > counted]
    captions = _captions(new) if found is None else _sum(found.counts, _captions(new))
    counts = {**captions, "records": sum(part.rows for part in parts)}
    manifest = PairsManifest(
        plan.digest, source_facts(job.config.source), content, len(parts), counts, tables_of(plan)
    )
    replace(pairs, f"parts{manifest.tables}.parquet", encode_table(parts_to_table(parts)))
    replace(pairs, "manifest.json", manifest.to_json().encode())
    return parts


def _excluded(
    pairs: Folder, parts: list[PartEntry], receipts: Sequence[Receipt], before: Standing | None
) -> pa.Table:
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
    inside = [pa.Table.from_pylist(rows, schema=EXCLUDED_SCHEMA)]
    if before is not None:
        inside.insert(0, before.excluded.filter(pc.is_null(before.excluded["part"])))
    return pa.concat_tables([*inside, colliding_rows(pairs, parts)])


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
    """Counts after exclusions across units: seen = embedded + failed + duplicate still holds.

    Args:
        images: folder of the parts.
        parts, receipts: of the units that are counted.
        excluded: of these and of other units.
    """
    counts, _ = _counts(receipts)
    by_part = exclusions_by_part(excluded)
    for part in parts:
        if part.pairs_part in by_part:
            ids = images.read_column(part.name, "id")
            taken = pc.is_in(pc.unique(ids), value_set=by_part[part.pairs_part])
            with_vector = pc.sum(taken).as_py() or 0
            counts["embedded"] -= with_vector
            counts["duplicate"] += with_vector
    for receipt in receipts:
        if receipt.pairs is not None and receipt.pairs.name in by_part:
            taken = set(by_part[receipt.pairs.name].to_pylist())
            failed = sum(failure.id in taken for failure in receipt.failures)
            counts["failed"] -= failed
            counts["duplicate"] += failed
    return counts


def note_of(job: Job, unit_name: str) -> Receipt | None:
    """Why a unit has no receipt, when an attempt could say."""
    try:
        note = Receipt.from_json(job.receipts.read(f"{unit_name}.note"))
    except (FileNotFoundError, ValueError):
        return None
    return note if note.run_id == job.run_id else None


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
    for folder in (job.images, pairs):
        sweep(folder)
