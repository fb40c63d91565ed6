"""What must hold of one tower's folder: its parts against its manifest, and against the pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.store.findings import BROKEN, DamageError, Findings, damage_text, read_or_damage
from pipelines.store.keys import KeyLedger
from pipelines.store.verify_parts import (
    CheckedPart,
    check_part,
    id_problems,
    match_problems,
    vector_problems,
)
from schemas.digests import keys128, sha256_json, table_digest
from schemas.embeddings import embeddings_schema
from schemas.failures import EXCLUDED_SCHEMA
from schemas.manifest import (
    ImagesManifest,
    PartEntry,
    content_digest,
    contents_by_generation,
    generation_of,
    job_facts,
)
from schemas.storage import Folder

NAMED = 10  # ids that stand twice and are named; the rest are counted

Claims = dict[str, tuple[object, object]]


@dataclass(frozen=True)
class PairsSide:
    """What a tower is held against.

    Attributes:
        folder: `pairs/`.
        parts: its lines of `parts.parquet`.
        plan: digests of the plan up to each generation; None when it can not be read.
        damaged: names of parts that are not to be compared with.
    """

    folder: Folder
    parts: list[PartEntry]
    plan: tuple[str, ...] | None
    damaged: frozenset[str]

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(part.name for part in self.parts)

    @cached_property
    def contents(self) -> dict[str, int]:
        """Digest of the parts up to each generation, and the generation."""
        return contents_by_generation(self.parts)

    def content_of(self, manifest: ImagesManifest) -> str:
        """The digest that the manifest must name: its own where that is of some generation, else the last one."""
        return manifest.pairs if manifest.pairs in self.contents else content_digest(self.parts)

    def lacking(self, manifest: ImagesManifest) -> list[str]:
        """Units that were appended since the manifest was written."""
        has = self.contents.get(manifest.pairs)
        return [part.unit for part in self.parts if has is not None and generation_of(part.unit) > has]


def verify_tower(
    name: str, folder: Folder, parts: list[PartEntry], pairs: PairsSide, findings: Findings
) -> None:
    """Reads all parts of a tower and holds its manifest against them.

    Args:
        name: the tower's id.
        folder: `images/<name>/`.
        parts: its lines of `parts.parquet`.
        pairs: the text side.
        findings: told of everything.
    """
    own = f"images/{name}/manifest.json"
    try:
        manifest = read_or_damage(
            folder, "manifest.json", lambda: ImagesManifest.from_json(folder.read("manifest.json"), own)
        )
        schema = embeddings_schema(manifest.embedding_dim, manifest.dtype)
    except (DamageError, ValueError) as damage:
        findings.say(own, str(damage), (own,))
        return
    tower = _Tower(f"images/{name}", folder, manifest, schema, parts)
    try:
        excluded = read_or_damage(
            folder, tower.excluded, lambda: folder.read_table(tower.excluded, EXCLUDED_SCHEMA)
        )
    except DamageError as damage:
        findings.say(f"{tower.where}/{tower.excluded}", str(damage), (own,))
        excluded = None
    if lacking := pairs.lacking(manifest):
        findings.notes.append(
            f"{tower.where}: lacks {len(lacking):,} of {len(pairs.parts):,} units, which were appended since "
            f"({lacking[0]} and on); lit-embed --append completes it"
        )
    claims = _identity_claims(tower, name, pairs)
    claims |= _check_parts(tower, pairs, excluded, findings)
    if excluded is not None:
        claims |= _exclusion_claims(tower, pairs, excluded)
        claims |= _failure_claims(tower, excluded, findings)
    findings.hold(own, claims, (own,))


@dataclass(frozen=True)
class _Tower:
    """A tower's folder while it is looked at."""

    where: str
    folder: Folder
    manifest: ImagesManifest
    schema: pa.Schema
    parts: list[PartEntry]

    @property
    def own(self) -> str:
        return f"{self.where}/manifest.json"

    @property
    def excluded(self) -> str:
        return f"excluded{self.manifest.tables}.parquet"


def failure_batches(folder: Folder, tables: str, columns: list[str]) -> Iterator[pa.Table]:
    """`failures.parquet` (or what its name ends in since inputs were appended) in pieces, however long it is."""
    return folder.read_batches(f"failures{tables}.parquet", columns)


def _identity_claims(tower: _Tower, name: str, pairs: PairsSide) -> Claims:
    manifest = tower.manifest
    first = pairs.plan[0] if pairs.plan is not None and manifest.plan in pairs.plan else manifest.plan
    facts = job_facts(first, manifest.dtype, manifest.views, manifest.view_rules)
    claims: Claims = {
        "tower_id": (manifest.tower_id, name),
        "run_id": (manifest.run_id, sha256_json({"space_id": manifest.space_id, **facts})),
        "parts": (manifest.parts, len(tower.parts)),
        "pairs": (manifest.pairs, pairs.content_of(manifest)),
    }
    if pairs.plan is not None and manifest.plan not in pairs.plan:
        claims["plan"] = (manifest.plan, pairs.plan[-1])
    counts = manifest.counts
    total = sum(counts.get(kind, 0) for kind in ("embedded", "failed", "duplicate"))
    return claims | {"counts.seen": (counts.get("seen"), total)}


def _exclusion_claims(tower: _Tower, pairs: PairsSide, excluded: pa.Table) -> Claims:
    content = content_digest(tower.parts, pairs.content_of(tower.manifest), table_digest(excluded))
    return {
        "content_id": (tower.manifest.content_id, content),
        "counts.duplicate": (tower.manifest.counts.get("duplicate"), len(excluded)),
    }


def _failure_claims(tower: _Tower, excluded: pa.Table, findings: Findings) -> Claims:
    """What the manifest must say of failures, from `failures.parquet`."""
    # Failed, and of an id that an earlier unit holds: counted as duplicate.
    taken = {(row["unit"], row["id"]) for row in excluded.to_pylist() if row["part"] is not None}
    reasons: dict[str, int] = {}
    failed = 0
    try:
        for batch in failure_batches(tower.folder, tower.manifest.tables, ["unit", "id", "reason"]):
            for row in batch.to_pylist():
                reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
                failed += (row["unit"], row["id"]) not in taken
    except BROKEN as error:
        file = f"{tower.where}/failures{tower.manifest.tables}.parquet"
        findings.say(file, f"must list the failures, found: {damage_text(error)}", (tower.own,))
        return {}
    return {
        "counts.failed": (tower.manifest.counts.get("failed"), failed),
        "failures": (dict(sorted(tower.manifest.failures.items())), dict(sorted(reasons.items()))),
    }


def _check_parts(tower: _Tower, pairs: PairsSide, excluded: pa.Table | None, findings: Findings) -> Claims:
    """Every part, and the ids across parts. Gives what the manifest must say of the number of vectors."""
    embedded, before = 0, len(findings.problems)
    leave_out = _ids_by_part(excluded)
    with KeyLedger() as ledger:
        for number, entry in enumerate(tower.parts):
            checked = _check_one(tower, entry, pairs)
            file = f"{tower.where}/{entry.name}"
            findings.looked_at(file, entry, checked.problems, (file, tower.own))
            for text in _unmatched(entry, checked, pairs):  # either side may be the wrong one
                findings.say(
                    file, text, (file, f"pairs/{entry.pairs_part}", "pairs/manifest.json", tower.own)
                )
            if checked.table is not None:
                ids = _kept_ids(checked.table, leave_out.get(entry.pairs_part))
                embedded += len(ids)
                ledger.add(number, *keys128(ids), np.arange(len(ids)))
        findings.images += embedded
        if excluded is not None:
            _say_collisions(tower, ledger, leave_out, findings)
    if len(findings.problems) > before or excluded is None:
        return {}
    return {"counts.embedded": (tower.manifest.counts.get("embedded"), embedded)}


def _check_one(tower: _Tower, entry: PartEntry, pairs: PairsSide) -> CheckedPart:
    checked = check_part(tower.folder, entry, tower.schema, {"run_id": tower.manifest.run_id})
    if checked.table is None:
        return checked
    checked.problems += id_problems(checked.table, tower.manifest.views)
    checked.problems += vector_problems(checked.table)
    if entry.pairs_part not in pairs.names:
        checked.problems.append(f"must have its pairs in a listed part, found {entry.pairs_part!r}")
    return checked


def _unmatched(entry: PartEntry, checked: CheckedPart, pairs: PairsSide) -> list[str]:
    """What two parts that are sound by themselves do not agree in."""
    if checked.table is None or checked.problems or entry.pairs_part in pairs.damaged:
        return []
    assert entry.pairs_part is not None
    table = pairs.folder.read_columns(entry.pairs_part, ["id", "image_sha256"])
    return list(match_problems(checked.table, table, entry.pairs_part))


def _say_collisions(
    tower: _Tower, ledger: KeyLedger, leave_out: dict[str | None, set[str]], findings: Findings
) -> None:
    """Ids that stand in several parts although exclusions are applied."""
    file, mend = f"{tower.where}/{tower.excluded}", (tower.own,)
    repeats = ledger.repeats(NAMED)
    for group in repeats.largest:
        names = sorted({tower.parts[number].name for number in group["part"].tolist()})
        if len(names) < 2:  # twice in one part: said there
            continue
        first = tower.parts[int(group["part"][0])]
        table = tower.folder.read_columns(first.name, ["id", "view"])
        id = _kept_ids(table, leave_out.get(first.pairs_part))[int(group["row"][0])]
        findings.say(file, f"must leave id {id!r} in one part, found it in {', '.join(names)}", mend)
    if (more := repeats.groups - len(repeats.largest)) > 0:
        findings.say(file, f"must leave ids in one part, found {more:,} more in several", mend)


def _kept_ids(table: pa.Table, leave_out: set[str] | None) -> list[str]:
    """Ids of the images of a part, in order, without those to leave out."""
    ids = table.column("id").filter(pc.equal(table.column("view"), 0)).to_pylist()
    return [id for id in ids if id not in leave_out] if leave_out else ids


def _ids_by_part(excluded: pa.Table | None) -> dict[str | None, set[str]]:
    """Ids to leave out, by pairs part."""
    ids: dict[str | None, set[str]] = {}
    for row in excluded.select(["id", "part"]).to_pylist() if excluded is not None else ():
        if row["part"] is not None:
            ids.setdefault(row["part"], set()).add(row["id"])
    return ids
