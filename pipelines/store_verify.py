"""`lit-store verify`: everything a store promises, held against what stands there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lit_precompute.plan import PLAN_FILE, read_plan
from pipelines.store_keys import KeyLedger
from pipelines.store_meter import Meter
from pipelines.store_verify_parts import (
    BROKEN,
    CheckedPart,
    check_part,
    id_problems,
    match_problems,
    vector_problems,
)
from schemas.digests import key64, sha256_json, table_digest
from schemas.embeddings import embeddings_schema
from schemas.failures import EXCLUDED_SCHEMA
from schemas.manifest import ImagesManifest, PairsManifest, PartEntry, content_digest, parts_from_table
from schemas.pairs import PAIRS_SCHEMA
from schemas.storage import Folder
from schemas.store import Store

NAMED = 10  # colliding ids that are printed; the rest are counted


@dataclass(frozen=True)
class Problem:
    """Something that does not hold.

    Attributes:
        file: the file at fault, below the store.
        text: what must hold, and what was found.
        mend: files, below the store, to delete so that lit-embed makes them again.
    """

    file: str
    text: str
    mend: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass
class Verified:
    """What a pass over a store came to.

    Attributes:
        parts, bytes, records, images: how much was looked at.
        towers: the towers that were looked at.
        problems: in the order they were found.
        notes: what is worth saying and is no damage.
    """

    parts: int = 0
    bytes: int = 0
    records: int = 0
    images: int = 0
    towers: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def mend(self) -> list[str]:
        """Every file to delete, each once, parts before manifests."""
        files = {file for problem in self.problems for file in problem.mend}
        return sorted(files, key=lambda file: (file.endswith(".json"), file))


def verify(
    store: Store, tower_id: str | None = None, on_problem: Callable[[Problem], None] = lambda problem: None
) -> Verified:
    """Reads every byte of the pairs and of one tower or all, one part at a time.

    Args:
        store: opened without a check.
        tower_id: one tower; None for every finished one.
        on_problem: told of each problem when it is found.

    Raises:
        ValueError: there is no such finished tower, or none at all.
    """
    towers = store.tower_ids() if tower_id is None else [tower_id]
    if tower_id is not None and tower_id not in store.tower_ids():
        store.images(tower_id)  # raises, and says which there are
    if not towers:
        raise ValueError(
            f"{store.path}: must hold a finished tower, found none. Run lit-embed again, then verify."
        )
    return _Verification(store, towers, on_problem).run()


class _Verification:
    """One pass: pairs first, then each tower against them."""

    def __init__(self, store: Store, towers: list[str], on_problem: Callable[[Problem], None]) -> None:
        self._store, self._towers, self._on_problem = store, towers, on_problem
        self._pairs = store.folder.child("pairs")
        self._pairs_parts: list[PartEntry] = []
        self._pairs_manifest: PairsManifest | None = None
        self._plan: str | None = None
        self._done = Verified()

    def run(self) -> Verified:
        self._check_plan()
        self._read_pairs_manifest()
        folders = {name: self._store.folder.child("images").child(name) for name in self._towers}
        lists = {name: self._read_parts(folder, f"images/{name}") for name, folder in folders.items()}
        total = sum(part.bytes for parts in (self._pairs_parts, *lists.values()) for part in parts)
        with Meter("verify", total) as self._meter:
            self._check_pairs()
            for name, folder in folders.items():
                self._done.towers.append(name)
                self._check_tower(name, folder, lists[name])
        return self._done

    # What every check does with what it finds.

    def _say(self, file: str, text: str, *mend: str) -> None:
        problem = Problem(file, text, mend)
        self._done.problems.append(problem)
        if hasattr(self, "_meter"):
            self._meter.clear()
        self._on_problem(problem)

    def _mend_pairs(self, *files: str) -> tuple[str, ...]:
        """The pairs are made again by the run of one tower, which must count as unfinished for that."""
        return (*files, "pairs/manifest.json", f"images/{self._towers[0]}/manifest.json")

    # The plan and the pairs.

    def _check_plan(self) -> None:
        try:
            self._plan = read_plan(self._store.folder).digest
        except BROKEN as error:
            self._say(PLAN_FILE, f"must be the plan, found: {error}", *self._mend_pairs(PLAN_FILE))

    def _read_pairs_manifest(self) -> None:
        self._pairs_parts = self._read_parts(self._pairs, "pairs")
        try:
            text = self._pairs.read("manifest.json")
            self._pairs_manifest = PairsManifest.from_json(text, "pairs/manifest.json")
        except BROKEN as error:
            self._say("pairs/manifest.json", f"must be a manifest, found: {error}", *self._mend_pairs())

    def _read_parts(self, folder: Folder, where: str) -> list[PartEntry]:
        try:
            parts = parts_from_table(folder.read_table("parts.parquet"))
        except BROKEN as error:
            mend = self._mend_pairs() if where == "pairs" else (f"{where}/manifest.json",)
            self._say(f"{where}/parts.parquet", f"must list the parts, found: {error}", *mend)
            return []
        unlisted = sorted(
            name
            for name in set(folder.sizes()) - {part.name for part in parts}
            if name.startswith(("pairs-", "embeddings-"))
        )
        self._done.notes += [f"{where}/{name}: not listed in parts.parquet; no reader of ours opens it" for name in unlisted]
        return parts

    def _check_pairs(self) -> None:
        counts = {"records": 0, "captions": 0, "records_with_captions": 0}
        whole = True
        for entry in self._pairs_parts:
            checked = check_part(self._pairs, entry, PAIRS_SCHEMA, {})
            if checked.table is not None:
                checked.problems += id_problems(checked.table)
                lengths = pc.list_value_length(checked.table.column("captions"))
                counts["records"] += len(checked.table)
                counts["captions"] += pc.sum(lengths).as_py() or 0
                counts["records_with_captions"] += pc.sum(pc.greater(lengths, 0)).as_py() or 0
            whole = whole and not checked.problems
            self._note_part(f"pairs/{entry.name}", entry, checked, self._mend_pairs(f"pairs/{entry.name}"))
        self._done.records = counts["records"]
        if (manifest := self._pairs_manifest) is None:
            return
        claims = {
            "content": (manifest.content, content_digest(self._pairs_parts)),
            "parts": (manifest.parts, len(self._pairs_parts)),
            **({"plan": (manifest.plan, self._plan)} if self._plan else {}),
        }
        if whole:
            claims |= {f"counts.{name}": (manifest.counts.get(name, 0), count) for name, count in counts.items()}
        self._hold("pairs/manifest.json", claims, self._mend_pairs())

    def _note_part(self, file: str, entry: PartEntry, checked: CheckedPart, mend: tuple[str, ...]) -> None:
        for text in checked.problems:
            self._say(file, text, *mend)
        self._done.parts += 1
        self._done.bytes += entry.bytes
        self._meter.add(entry.bytes)

    def _hold(self, file: str, claims: dict[str, tuple[object, object]], mend: tuple[str, ...]) -> None:
        for name, (said, found) in claims.items():
            if said != found:
                self._say(file, f"{name} must be {_short(found)}, as its files have it; found {_short(said)}", *mend)

    # One tower.

    def _check_tower(self, name: str, folder: Folder, parts: list[PartEntry]) -> None:
        where, own = f"images/{name}", f"images/{name}/manifest.json"
        try:
            manifest = ImagesManifest.from_json(folder.read("manifest.json"), own)
            schema = embeddings_schema(manifest.embedding_dim, manifest.dtype)
        except BROKEN as error:
            self._say(own, f"must be a manifest, found: {error}", own)
            return
        try:
            excluded = folder.read_table("excluded.parquet", EXCLUDED_SCHEMA)
        except BROKEN as error:
            self._say(f"{where}/excluded.parquet", f"must list exclusions, found: {error}", own)
            return
        tower = _Tower(where, folder, manifest, schema, _by_part(excluded))
        embedded, whole = self._check_embeddings(tower, parts)
        identity = {"space_id": manifest.space_id, "plan": manifest.plan, "dtype": manifest.dtype}
        claims: dict[str, tuple[object, object]] = {
            "tower_id": (manifest.tower_id, name),
            "run_id": (manifest.run_id, sha256_json({**identity, "views": manifest.views})),
            "parts": (manifest.parts, len(parts)),
            "pairs": (manifest.pairs, content_digest(self._pairs_parts)),
            "content_id": (
                manifest.content_id,
                content_digest(parts, content_digest(self._pairs_parts), table_digest(excluded)),
            ),
            **({"plan": (manifest.plan, self._plan)} if self._plan else {}),
        }
        counts = manifest.counts
        if whole:
            claims["counts.embedded"] = (counts.get("embedded"), embedded)
        claims["counts.duplicate"] = (counts.get("duplicate"), len(excluded))
        claims["counts.seen"] = (
            counts.get("seen"),
            sum(counts.get(kind, 0) for kind in ("embedded", "failed", "duplicate")),
        )
        claims |= self._failure_claims(tower, excluded)
        self._hold(own, claims, (own,))

    def _check_embeddings(self, tower: "_Tower", parts: list[PartEntry]) -> tuple[int, bool]:
        """Every part of a tower, and its ids across parts.

        Returns:
            Images that have a vector and are not excluded, and whether every part was sound.
        """
        embedded, whole = 0, True
        with KeyLedger() as ledger:
            for number, entry in enumerate(parts):
                checked = self._check_embeddings_part(tower, entry)
                whole = whole and not checked.problems
                self._note_part(f"{tower.where}/{entry.name}", entry, checked, tower.mend(entry.name))
                if checked.table is not None:
                    ids = tower.kept_ids(checked.table, entry.pairs_part)
                    embedded += len(ids)
                    keys = np.fromiter((key64(id.encode()) for id in ids), np.uint64, len(ids))
                    ledger.add(number, keys, np.arange(len(ids)))
            self._done.images += embedded
            self._say_collisions(tower, parts, ledger)
        return embedded, whole

    def _check_embeddings_part(self, tower: "_Tower", entry: PartEntry) -> CheckedPart:
        checked = check_part(tower.folder, entry, tower.schema, {"run_id": tower.manifest.run_id})
        if checked.table is None:
            return checked
        checked.problems += id_problems(checked.table, tower.manifest.views)
        checked.problems += vector_problems(checked.table)
        if entry.pairs_part not in {part.name for part in self._pairs_parts}:
            checked.problems.append(f"must have its pairs in a listed part, found {entry.pairs_part!r}")
            return checked
        try:
            pairs = _columns(self._pairs, entry.pairs_part, ["id", "image_sha256"])
        except BROKEN:  # said when the pairs were looked at
            return checked
        checked.problems += match_problems(checked.table, pairs, entry.pairs_part)
        return checked

    def _say_collisions(self, tower: "_Tower", parts: list[PartEntry], ledger: KeyLedger) -> None:
        repeats = ledger.repeats(NAMED)
        for group in repeats.largest:
            places = sorted({parts[number].name for number in group["part"].tolist()})
            if len(places) < 2:  # repeated inside one part: said there
                continue
            first = parts[int(group["part"][0])]
            ids = tower.kept_ids(_columns(tower.folder, first.name, ["id", "view"]), first.pairs_part)
            self._say(
                f"{tower.where}/excluded.parquet",
                f"id {ids[int(group['row'][0])]!r} must stand in one part after exclusions, found in {', '.join(places)}",
                f"{tower.where}/manifest.json",
            )
        if repeats.groups > len(repeats.largest):
            self._say(
                f"{tower.where}/excluded.parquet",
                f"{repeats.groups - len(repeats.largest):,} more ids stand in several places",
                f"{tower.where}/manifest.json",
            )

    def _failure_claims(self, tower: "_Tower", excluded: pa.Table) -> dict[str, tuple[object, object]]:
        """What the manifest must say of failures, from `failures.parquet`."""
        taken = {
            (row["unit"], row["id"]) for row in excluded.to_pylist() if row["part"] is not None
        }  # failed, and of an id that an earlier unit holds: counted as duplicate
        reasons: dict[str, int] = {}
        failed = 0
        try:
            for batch in failure_batches(tower.folder, ["unit", "id", "reason"]):
                for row in batch.to_pylist():
                    reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
                    failed += (row["unit"], row["id"]) not in taken
        except BROKEN as error:
            self._say(f"{tower.where}/failures.parquet", f"must list failures, found: {error}", tower.own)
            return {}
        return {
            "counts.failed": (tower.manifest.counts.get("failed"), failed),
            "failures": (dict(tower.manifest.failures), dict(sorted(reasons.items()))),
        }


@dataclass(frozen=True)
class _Tower:
    """A tower's folder while it is looked at."""

    where: str
    folder: Folder
    manifest: ImagesManifest
    schema: pa.Schema
    excluded: dict[str, pa.Array]

    @property
    def own(self) -> str:
        return f"{self.where}/manifest.json"

    def mend(self, part: str) -> tuple[str, ...]:
        return (f"{self.where}/{part}", self.own)

    def kept_ids(self, table: pa.Table, pairs_part: str | None) -> list[str]:
        """Ids of the images of a part that are not excluded, in order."""
        ids = table.column("id").filter(pc.equal(table.column("view"), 0))
        if (excluded := self.excluded.get(pairs_part or "")) is not None:
            ids = ids.filter(pc.invert(pc.is_in(ids, value_set=excluded)))
        return ids.to_pylist()


def failure_batches(folder: Folder, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """`failures.parquet` in pieces, however long it is."""
    with folder.fs.open(folder.at("failures.parquet"), "rb") as file:
        yield from pq.ParquetFile(file).iter_batches(columns=columns)


def _columns(folder: Folder, name: str, columns: list[str]) -> pa.Table:
    with folder.fs.open(folder.at(name), "rb") as file:
        return pq.ParquetFile(file).read(columns)


def _by_part(excluded: pa.Table) -> dict[str, pa.Array]:
    """Ids to leave out, by pairs part."""
    inside = excluded.filter(pc.is_valid(excluded["part"]))
    names = pc.unique(inside["part"]).to_pylist()
    return {
        name: inside.filter(pc.equal(inside["part"], name))["id"].combine_chunks() for name in names
    }


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
