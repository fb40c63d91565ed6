"""The text side's manifest, which the first tower's run writes and every other finds."""

from collections.abc import Sequence

from lit_precompute.config import source_facts
from lit_precompute.job import Job
from lit_precompute.parts import encode_table
from lit_precompute.plan import Plan
from lit_precompute.publish import replace
from lit_precompute.receipt import Receipt
from pipelines.finish.counts import added, captions_of
from pipelines.finish.standing import Standing, standing_pairs, tables_of
from schemas.manifest import (
    PairsManifest,
    PartEntry,
    content_digest,
    contents_by_generation,
    generation_of,
    parts_from_table,
    parts_to_table,
)


def write_pairs(
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
    captions = captions_of(new) if found is None else added(found.counts, captions_of(new))
    counts = {**captions, "records": sum(part.rows for part in parts)}
    manifest = PairsManifest(
        plan.digest, source_facts(job.config.source), content, len(parts), counts, tables_of(plan)
    )
    replace(pairs, f"parts{manifest.tables}.parquet", encode_table(parts_to_table(parts)))
    replace(pairs, "manifest.json", manifest.to_json().encode())
    return parts


def stored_captions(job: Job) -> dict[str, int]:
    pairs = job.store.child("pairs")
    return dict(PairsManifest.from_json(pairs.read("manifest.json"), f"{pairs.path}/manifest.json").counts)
