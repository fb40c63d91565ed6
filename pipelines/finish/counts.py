"""What receipts come to together: counts, failures, rows that are left out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lit_precompute.receipt import Receipt
from pipelines.finish.collisions import colliding_rows, exclusions_by_part
from pipelines.finish.standing import Standing
from schemas.failures import EXCLUDED_SCHEMA, FAILURES_SCHEMA
from schemas.manifest import PartEntry
from schemas.storage import Folder


def counts_of(receipts: Sequence[Receipt]) -> tuple[dict[str, int], dict[str, int]]:
    counts = {
        "seen": sum(receipt.seen for receipt in receipts),
        "embedded": sum(receipt.embedded for receipt in receipts),
        "failed": sum(len(receipt.failures) for receipt in receipts),
        "duplicate": sum(len(receipt.duplicates) for receipt in receipts),
    }
    return counts, dict(sum((receipt.reasons() for receipt in receipts), Counter()))


def captions_of(receipts: Sequence[Receipt]) -> dict[str, int]:
    return dict(sorted(sum((Counter(receipt.captions) for receipt in receipts), Counter()).items()))


def final_counts(
    images: Folder, parts: list[PartEntry], receipts: Sequence[Receipt], excluded: pa.Table
) -> dict[str, int]:
    """Counts after exclusions across units: seen = embedded + failed + duplicate still holds.

    Args:
        images: folder of the parts.
        parts, receipts: of the units that are counted.
        excluded: of these and of other units.
    """
    counts, _ = counts_of(receipts)
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


def excluded_rows(
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


def failure_rows(receipts: Sequence[Receipt]) -> pa.Table:
    rows = [
        {"unit": receipt.unit, **failure.to_json()} for receipt in receipts for failure in receipt.failures
    ]
    return pa.Table.from_pylist(rows, schema=FAILURES_SCHEMA)


def added(
    ours: Mapping[str, int], theirs: Mapping[str, int], names: Iterable[str] | None = None
) -> dict[str, int]:
    """Counts of both, by name; of the names given, or all."""
    wanted = {**ours, **theirs} if names is None else names
    return {name: ours.get(name, 0) + theirs.get(name, 0) for name in wanted}
