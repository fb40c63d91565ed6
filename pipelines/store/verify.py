"""`lit-store verify`: everything a store promises, held against what stands there."""

import json
from collections.abc import Callable, Mapping

import pyarrow.compute as pc

from lit_precompute.plan import PLAN_FILE, read_plan
from pipelines.store.findings import DamageError, Findings, Problem, read_or_damage
from pipelines.store.meter import Meter
from pipelines.store.verify_parts import check_part, id_problems
from pipelines.store.verify_tower import PairsSide, verify_tower
from schemas.manifest import PairsManifest, PartEntry, content_digest, parts_from_table
from schemas.pairs import PAIRS_SCHEMA
from schemas.storage import Folder
from schemas.store import Store


def verify(
    store: Store, tower_id: str | None = None, on_problem: Callable[[Problem], None] = lambda problem: None
) -> Findings:
    """Reads every byte of the pairs and of one tower or all, one part at a time.

    Args:
        store: not necessarily whole.
        tower_id: one tower; None for every finished one.
        on_problem: told of each problem when it is found.

    Raises:
        ValueError: there is no such finished tower, or none at all.
        OSError: the storage failed.
    """
    towers = _towers(store, tower_id)
    meter = Meter("verify")
    findings = Findings(on_problem, meter, towers=towers)
    # The pairs are made again by the run of one tower, which must count as unfinished for that.
    mend = ("pairs/manifest.json", f"images/{towers[0]}/manifest.json")
    with meter:
        plan = _plan_digests(store, findings, mend)
        pairs_parts = _read_parts(store.folder.child("pairs"), "pairs", findings, mend)
        folders = {name: store.folder.child("images").child(name) for name in towers}
        lists = {
            name: _read_parts(folder, f"images/{name}", findings, (f"images/{name}/manifest.json",))
            for name, folder in folders.items()
        }
        meter.total = sum(part.bytes for parts in (pairs_parts, *lists.values()) for part in parts)
        damaged = _check_pairs(store.folder.child("pairs"), pairs_parts, plan, findings, mend)
        pairs = PairsSide(store.folder.child("pairs"), pairs_parts, plan, damaged)
        for name, folder in folders.items():
            verify_tower(name, folder, lists[name], pairs, findings)
    return findings


def _towers(store: Store, tower_id: str | None) -> list[str]:
    known = store.tower_ids()
    if tower_id is not None:
        if tower_id not in known:
            raise ValueError(
                f"--tower-id: {store.path} must hold a finished tower {tower_id!r}, found "
                f"{', '.join(known) or 'none'}."
            )
        return [tower_id]
    if not known:
        raise ValueError(
            f"{store.path}: must hold a finished tower, found none. Run lit-embed again, then verify."
        )
    return known


def _plan_digests(store: Store, findings: Findings, mend: tuple[str, ...]) -> tuple[str, ...] | None:
    """Digests of the plan up to each generation; None when it is damaged."""
    try:
        return read_or_damage(store.folder, PLAN_FILE, lambda: read_plan(store.folder).digests)
    except DamageError as damage:
        findings.say(PLAN_FILE, str(damage), (PLAN_FILE, *mend))
        return None


def _read_parts(folder: Folder, where: str, findings: Findings, mend: tuple[str, ...]) -> list[PartEntry]:
    """The lines of `parts.parquet`; [] when it is damaged. Files it does not list are noted."""
    name = f"parts{_tables(folder)}.parquet"
    try:
        parts = read_or_damage(folder, name, lambda: parts_from_table(folder.read_table(name)))
    except DamageError as damage:
        findings.say(f"{where}/{name}", str(damage), mend)
        return []
    surplus = set(folder.sizes()) - {part.name for part in parts}
    findings.notes += [
        f"{where}/{file}: stands there and is not listed in {name}; our readers leave it out"
        for file in sorted(surplus)
        if file.startswith(("pairs-", "embeddings-"))
    ]
    return parts


def _tables(folder: Folder) -> str:
    """What the names of the tables end in, as a manifest says; what is wrong with that is found later."""
    try:
        return str(json.loads(folder.read("manifest.json")).get("tables", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _check_pairs(
    folder: Folder,
    parts: list[PartEntry],
    plan: tuple[str, ...] | None,
    findings: Findings,
    mend: tuple[str, ...],
) -> frozenset[str]:
    """Every pairs part, then what the manifest says of them. Gives the names of the damaged parts."""
    counts = {"records": 0, "captions": 0, "records_with_captions": 0}
    damaged = set()
    for entry in parts:
        checked = check_part(folder, entry, PAIRS_SCHEMA, {})
        if checked.table is not None:
            checked.problems += id_problems(checked.table)
            lengths = pc.list_value_length(checked.table.column("captions"))
            counts["records"] += len(checked.table)
            counts["captions"] += pc.sum(lengths).as_py() or 0
            counts["records_with_captions"] += pc.sum(pc.greater(lengths, 0)).as_py() or 0
        file = f"pairs/{entry.name}"
        findings.looked_at(file, entry, checked.problems, (file, *mend))
        if checked.problems:
            damaged.add(entry.name)
    findings.records = counts["records"]
    _check_pairs_manifest(folder, parts, plan, {} if damaged else counts, findings, mend)
    return frozenset(damaged)


def _check_pairs_manifest(
    folder: Folder,
    parts: list[PartEntry],
    plan: tuple[str, ...] | None,
    counts: Mapping[str, int],
    findings: Findings,
    mend: tuple[str, ...],
) -> None:
    """What the manifest says of the parts, and of their rows where these were counted."""
    own = "pairs/manifest.json"
    try:
        manifest = read_or_damage(
            folder, "manifest.json", lambda: PairsManifest.from_json(folder.read("manifest.json"), own)
        )
    except DamageError as damage:
        findings.say(own, str(damage), mend)
        return
    claims: dict[str, tuple[object, object]] = {
        "content": (manifest.content, content_digest(parts)),
        "parts": (manifest.parts, len(parts)),
    }
    if plan is not None and manifest.plan not in plan:
        claims["plan"] = (manifest.plan, plan[-1])
    claims |= {f"counts.{name}": (manifest.counts.get(name, 0), count) for name, count in counts.items()}
    findings.hold(own, claims, mend)
