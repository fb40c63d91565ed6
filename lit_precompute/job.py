"""One job: its identity, and whether a store may take it up."""

import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from lit_precompute.config import EmbedConfig, source_facts
from lit_precompute.plan import PLAN_FILE, Plan, make_plan, read_plan
from lit_precompute.publish import replace
from lit_precompute.sources import SOURCES
from lit_precompute.sources.listing import list_inputs
from lit_precompute.sources.redaction import redact_values
from lit_precompute.units import bare_name
from schemas.digests import canonical_json, sha256_json
from schemas.ids import check_tower_id
from schemas.manifest import ImagesManifest, TowerInfo
from schemas.storage import Folder, StorageOptions

VIEWS = 1


@dataclass(frozen=True)
class Job:
    """All that a worker must know beside the unit's number. Pickled into the graph: values only.

    Attributes:
        config: the resolved request.
        tower: what the vectors will be of; a worker that loads anything else stops.
        tower_id: name of the tower's folder.
        run_id: which job this is; parts and receipts carry it.
        writes_pairs: True for the first tower of a store; a later one compares instead.
        storage_options: fsspec options by protocol.
        isolate_decoding: decode in processes of their own, because an earlier run died.
    """

    config: EmbedConfig
    tower: TowerInfo
    tower_id: str
    run_id: str
    writes_pairs: bool
    storage_options: StorageOptions = field(default_factory=dict, repr=False)
    isolate_decoding: bool = False

    @property
    def store(self) -> Folder:
        return Folder(self.config.output, self.storage_options)

    @property
    def images(self) -> Folder:
        return self.store.child("images").child(self.tower_id)

    @property
    def receipts(self) -> Folder:
        return self.images.child("_receipts")


def agree_plan(config: EmbedConfig, options: StorageOptions) -> tuple[Plan, bool]:
    """The store's plan when it has one that still holds, else a new one.

    Returns:
        The plan, and whether it is new (and not yet written).

    Raises:
        ValueError: inputs or source options are not those of the store's plan; the differences are named.
    """
    store = Folder(config.output, options)
    if not store.exists(PLAN_FILE):
        return make_plan(config.source, config.work.unit_bytes, options), True
    plan = read_plan(store)
    differing = _differences(source_facts(config.source), plan.source)
    listing = list_inputs(config.source.input, SOURCES[config.source.format].SUFFIXES, options)
    planned = {part.path: (part.size, part.version) for unit in plan.units for part in unit.slices}
    present = {file.path: (file.size, file.version) for file in listing.files}
    differing += [
        f"{bare_name(path)}: planned, no longer there" for path in sorted(set(planned) - set(present))
    ]
    differing += [f"{bare_name(path)}: not in the plan" for path in sorted(set(present) - set(planned))]
    differing += [
        f"{bare_name(path)}: size and version {planned[path]} when planned, found {present[path]}"
        for path in sorted(set(planned) & set(present))
        if planned[path] != present[path]
    ]
    if differing:
        shown = [f"  {line}" for line in differing[:10]]
        if len(differing) > 10:
            shown.append(f"  and {len(differing) - 10:,} more")
        raise ValueError(
            f"{store.path}: the input must be the one the store was planned with, found\n"
            + "\n".join(shown)
            + "\n"
            "Restore it to go on, or write to another --output."
        )
    return plan, False


def open_job(config: EmbedConfig, tower: TowerInfo, plan: Plan, options: StorageOptions) -> Job:
    """The job a request amounts to, new or taken up again.

    Raises:
        ValueError: the tower's folder holds another job's work; every differing field is named.
    """
    identity = {
        "space_id": tower.space_id,
        "tower": tower.to_json(),
        "plan": plan.digest,
        "dtype": config.dtype,
        "views": VIEWS,
    }
    run_id = sha256_json({name: value for name, value in identity.items() if name != "tower"})
    tower_id = check_tower_id(config.tower.tower_id or tower.default_tower_id)
    store = Folder(config.output, options)
    job = Job(config, tower, tower_id, run_id, not store.exists("pairs/manifest.json"), options)
    if (found := _standing_identity(job.images)) is not None:
        _refuse_other(job, identity, found)
    return job


def finished(job: Job) -> ImagesManifest | None:
    """The manifest of the tower's folder when the job is done."""
    if not job.images.exists("manifest.json"):
        return None
    return ImagesManifest.from_json(job.images.read("manifest.json"), f"{job.images.path}/manifest.json")


def begin(job: Job, plan: Plan) -> None:
    """Writes `run.json`: what this job is, so that a later command knows whether it is the same."""
    facts = {
        "run_id": job.run_id,
        "identity": {
            "tower": job.tower.to_json(),
            "plan": plan.digest,
            "dtype": job.config.dtype,
            "views": VIEWS,
        },
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version.split()[0],
        "host": platform.platform(),
        "versions": {name: version(name) for name in ("jax", "pyarrow", "pillow")},
        "options": redact_values(json.loads(json.dumps(asdict(job.config)))),
    }
    replace(job.images, "run.json", (json.dumps(facts, indent=2, default=str) + "\n").encode())


def note_speed(job: Job, images: int, seconds: float) -> None:
    """Adds to `run.json` what this launch did: images read, seconds with start-up, and the rate."""
    facts = json.loads(job.images.read("run.json"))
    facts |= {"images": images, "seconds": round(seconds, 3), "images_per_second": round(images / seconds, 3)}
    replace(job.images, "run.json", (json.dumps(facts, indent=2) + "\n").encode())


def _standing_identity(images: Folder) -> dict[str, Any] | None:
    """Identity of the job whose work stands in a tower's folder, from its manifest or its run.json."""
    if images.exists("manifest.json"):
        text = images.read("manifest.json")
        manifest = ImagesManifest.from_json(text, f"{images.path}/manifest.json")
        return {
            "tower": manifest.tower.to_json(),
            "plan": manifest.plan,
            "dtype": manifest.dtype,
            "views": manifest.views,
        }
    if images.exists("run.json"):
        return json.loads(images.read("run.json"))["identity"]
    return None


def _refuse_other(job: Job, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    differing = _differences(
        {name: value for name, value in wanted.items() if name != "space_id"}, found, ignore=("tower.tower",)
    )
    if differing:
        raise ValueError(
            f"{job.images.path} holds another job:\n" + "\n".join(f"  {line}" for line in differing) + "\n"
            "Give the same options to go on with it, or another --tower-id to make a folder beside it."
        )


def _differences(
    wanted: Mapping[str, Any], found: Mapping[str, Any], ignore: Sequence[str] = ()
) -> list[str]:
    ours, theirs = _flat(wanted), _flat(found)
    return [
        f"{name}: the store has {theirs.get(name)!r}, this command gives {ours.get(name)!r}"
        for name in sorted(set(ours) | set(theirs))
        if name not in ignore and ours.get(name) != theirs.get(name)
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= _flat(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.loads(canonical_json(inner))
    return flat
