"""`lit-store inspect`: what a store holds, as sections of a report."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lit_precompute.plan import read_plan
from pipelines.store.findings import BROKEN, DamageError, damage_text
from pipelines.store.meter import Meter, size_text
from pipelines.store.survey import survey
from pipelines.store.survey_sections import survey_sections
from pipelines.store.text import Section, Shown, clean, share
from pipelines.store.verify_tower import failure_batches
from schemas.failures import REASONS
from schemas.manifest import ImagesManifest
from schemas.storage import Folder
from schemas.store import ImagesFolder, Store

EXAMPLES = 3  # failed records shown per reason
NOTES = 5  # units shown that an unfinished run could not do


@dataclass
class Report:
    """Sections to print, and the images in them that a page may show.

    Attributes:
        path: of the store.
        sections: in order.
        shown: images named in them, each once.
    """

    path: str
    sections: list[Section] = field(default_factory=list)

    @property
    def shown(self) -> list[Shown]:
        cells = (cell for section in self.sections for row in section.rows for cell in row)
        return list({(cell.unit, cell.id): cell for cell in cells if isinstance(cell, Shown)}.values())


def report(store: Store, tower_id: str | None = None) -> Report:
    """Looks at a store: all that its manifests say, and one pass over every part.

    Args:
        store: whole, or still being made.
        tower_id: one finished tower; None for all, and for the state of the unfinished ones.

    Raises:
        ValueError: there is no such tower.
        DamageError: a part is damaged.
    """
    finished = store.tower_ids() if tower_id is None else [tower_id]
    towers = [store.images(name) for name in finished]
    made = Report(store.path, [_overview(store)])
    if tower_id is None:
        made.sections += [_unfinished(store, name) for name in _unfinished_ids(store, finished)]
    with Meter("inspect") as meter:
        for images in towers:
            try:
                made.sections += [_tower(images), *_failures(images)]
                made.sections += survey_sections(images, survey(images, meter))
            except (pa.ArrowException, ValueError, OSError) as error:
                raise DamageError(damage_text(error)) from None
    return made


def _overview(store: Store) -> Section:
    rows = [("store", clean(store.path, 300))]
    try:
        plan = read_plan(store.folder)
        sizes = {part.path: max(part.size, 0) for unit in plan.units for part in unit.slices}
        rows.append(
            ("plan", f"{len(plan.units):,} units of {len(sizes):,} files, {size_text(sum(sizes.values()))}")
        )
        rows.append(("source", _facts(plan.source)))
    except BROKEN as error:
        rows.append(("plan", f"none that can be read: {damage_text(error)}"))
    if store.folder.exists("pairs/manifest.json"):
        counts = store.pairs.manifest.counts
        rows.append(("pairs", _pairs_line(counts)))
    else:
        rows.append(("pairs", "unfinished"))
    rows.append(("towers", ", ".join(store.tower_ids()) or "none finished"))
    return Section("Store", rows)


def _pairs_line(counts: Mapping[str, int]) -> str:
    line = (
        f"{counts.get('records', 0):,} records, {counts.get('captions', 0):,} captions of "
        f"{counts.get('records_with_captions', 0):,} of them"
    )
    left_out = {
        name.removeprefix("left_out_"): n for name, n in counts.items() if name.startswith("left_out_")
    }
    if left_out:
        line += "; left out: " + ", ".join(f"{name} {count:,}" for name, count in sorted(left_out.items()))
    return line


def _unfinished_ids(store: Store, finished: Sequence[str]) -> list[str]:
    return sorted(set(store.folder.child("images").folders()) - set(finished))


def _unfinished(store: Store, name: str) -> Section:
    """How far a tower's run has come, from its receipts."""
    folder = store.folder.child("images").child(name)
    files = folder.child("_receipts").sizes()
    receipts = sum(file.endswith(".json") for file in files)
    try:
        units = f"{len(read_plan(store.folder).units):,}"
    except BROKEN as error:
        damage_text(error)
        units = "an unknown number of"
    run, lease = _json(folder, "run.json"), _json(folder, "lease.json")
    rows = [("units", f"{receipts:,} of {units} units have receipts")]
    if run:
        rows.append(("started", str(run.get("started"))))
    if lease:
        rows.append(("at work", f"process {lease.get('pid')} on {clean(str(lease.get('host')))}"))
    notes = sorted(file for file in files if file.endswith(".note"))
    for file in notes[:NOTES]:
        detail = str(_json(folder.child("_receipts"), file).get("detail"))
        rows.append((clean(file.removesuffix(".note")), clean(detail)))
    more = [f"and {len(notes) - NOTES:,} more units that could not be done"] if len(notes) > NOTES else []
    return Section(f"Tower {clean(name)}: unfinished", rows, notes=[*more, "Run lit-embed again to go on."])


def _tower(images: ImagesFolder) -> Section:
    manifest = images.manifest
    tower, run = manifest.tower, _json(images.folder, "run.json")
    rows = [("images", counts_line(manifest))]
    if images.lacking:
        rows.append(("lacks", images.lacking_text()))
    if "distinct_images" in manifest.counts:
        again = manifest.counts["embedded"] - manifest.counts["distinct_images"]
        rows.append(("equal images", f"{again:,} of those embedded have the bytes of another one"))
    rows += [
        ("vectors", f"{tower.embedding_dim:,} x {manifest.dtype}, {manifest.views} view(s) per image"),
        ("parts", f"{manifest.parts:,}, {size_text(sum(part.bytes for part in images.parts))}"),
        ("features", tower.features),
        ("weights", tower.weights),
        ("architecture", _facts({"tower": tower.tower, **tower.architecture})),
        ("preprocessing", _facts(tower.preprocessing)),
        ("space_id", manifest.space_id),
        ("content_id", manifest.content_id),
        ("run", _run_line(run)),
    ]
    if manifest.damaged:
        rows.append(
            ("damaged input", f"{len(manifest.damaged):,} units, accepted: {', '.join(manifest.damaged[:5])}")
        )
    return Section(f"Tower {manifest.tower_id}", [(name, clean(text, 300)) for name, text in rows])


def counts_line(manifest: ImagesManifest) -> str:
    """`seen = embedded + failed + duplicate`, and a word when it does not add up."""
    counts = {name: manifest.counts.get(name, 0) for name in ("seen", "embedded", "failed", "duplicate")}
    line = (
        f"{counts['seen']:,} seen = {counts['embedded']:,} embedded + {counts['failed']:,} failed "
        f"+ {counts['duplicate']:,} with an id taken before"
    )
    if counts["seen"] != counts["embedded"] + counts["failed"] + counts["duplicate"]:
        line += ": does not add up; run lit-store verify"
    return line


def _run_line(run: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in dict(run.get("versions") or {}).items())
    line = f"{run.get('started', '?')} to {run.get('ended', '?')}, {run.get('host', '?')}, {versions}"
    if rate := run.get("images_per_second"):
        line += f", {rate:,.1f} images/s"
    return line


def _failures(images: ImagesFolder) -> list[Section]:
    """A table by stage and reason, with the first few of each."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[str]] = {}
    for batch in failure_batches(
        images.folder, images.manifest.tables, ["id", "locator", "stage", "reason", "detail"]
    ):
        for row in batch.to_pylist():
            kind = (row["stage"], row["reason"])
            counts[kind] += 1
            if len(own := examples.setdefault(kind, [])) < EXAMPLES:
                own.append(f"{clean(row['locator'], 50)}: {clean(row['detail'] or '', 60)}")
    if not counts:
        return []
    seen = images.manifest.counts.get("seen", 0)
    rows = [
        (f"{count:,}", share(count, seen), *kind, REASONS.get(kind[1], ""), "; ".join(examples[kind]))
        for kind, count in counts.most_common()
    ]
    return [Section("Failed records", rows, ("records", "share", "stage", "reason", "meaning", "first"))]


def _facts(facts: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in facts.items()
    )


def _json(folder: Folder, name: str) -> dict[str, Any]:
    """A small JSON object, or {} when there is none that can be read: it is only shown."""
    try:
        value = json.loads(folder.read(name))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
