"""One job: its identity, and whether a store may take it up."""

import json
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from lit_precompute.config import EmbedConfig
from lit_precompute.differences import differences
from lit_precompute.plan import Plan
from lit_precompute.publish import replace
from lit_precompute.sources.redaction import redact_values
from lit_precompute.units import Unit
from lit_precompute.views import view_rules
from schemas.digests import sha256_json
from schemas.ids import check_tower_id
from schemas.manifest import ImagesManifest, PairsManifest, TowerInfo, job_facts
from schemas.storage import Folder, StorageOptions


@dataclass(frozen=True)
class Job:
    """All that a worker must know beside the unit's number. Pickled into the graph: values only.

    Attributes:
        config: the resolved request.
        tower: what the vectors will be of; a worker that loads anything else stops.
        tower_id: name of the tower's folder.
        run_id: which job this is; parts and receipts carry it.
        plan: digest of the plan.
        pairs_generation: the last generation whose pairs stand already; -1 for none.
        storage_options: fsspec options by protocol.
        isolate_decoding: decode in processes of their own, because an earlier run died.
        retry: which retry of failed records this is; 0 when it is none.
    """

    config: EmbedConfig
    tower: TowerInfo
    tower_id: str
    run_id: str
    plan: str
    pairs_generation: int
    storage_options: StorageOptions = field(default_factory=dict, repr=False)
    isolate_decoding: bool = False
    retry: int = 0

    def writes_pairs(self, unit: Unit) -> bool:
        """Whether the unit's pairs are written; those that an earlier tower's run wrote are compared instead."""
        return unit.generation > self.pairs_generation

    @property
    def store(self) -> Folder:
        return Folder(self.config.output, self.storage_options)

    @property
    def images(self) -> Folder:
        return self.store.child("images").child(self.tower_id)

    @property
    def receipts(self) -> Folder:
        return self.images.child("_receipts")


def open_job(config: EmbedConfig, tower: TowerInfo, plan: Plan, options: StorageOptions) -> Job:
    """The job a request amounts to, new or taken up again.

    Its run_id follows from the first generation of the plan, so that a job stays the same when inputs are appended.

    Raises:
        ValueError: the tower's folder holds another job's work; every differing field is named.
    """
    facts = _facts(config, plan)
    run_id = sha256_json({"space_id": tower.space_id, **facts})
    tower_id = check_tower_id(config.tower.tower_id or tower.default_tower_id)
    store = Folder(config.output, options)
    job = Job(config, tower, tower_id, run_id, plan.digest, _pairs_generation(store, plan), options)
    if (found := _standing_identity(job.images, plan)) is not None:
        _refuse_other(job, {"tower": tower.to_json(), **facts}, found)
    return job


def _facts(config: EmbedConfig, plan: Plan) -> dict[str, Any]:
    return job_facts(plan.digests[0], config.dtype, config.views, view_rules(config.views))


def finished(job: Job) -> ImagesManifest | None:
    """The manifest of the tower's folder when the job is done, with all that was appended."""
    manifest = standing_manifest(job)
    return manifest if manifest is not None and manifest.plan == job.plan else None


def standing_manifest(job: Job) -> ImagesManifest | None:
    """The manifest of the tower's folder, perhaps from before inputs were appended."""
    if not job.images.exists("manifest.json"):
        return None
    return ImagesManifest.from_json(job.images.read("manifest.json"), f"{job.images.path}/manifest.json")


def _pairs_generation(store: Folder, plan: Plan) -> int:
    """The last generation whose pairs are finished; -1 for none."""
    pairs = store.child("pairs")
    if not pairs.exists("manifest.json"):
        return -1
    manifest = PairsManifest.from_json(pairs.read("manifest.json"), f"{pairs.path}/manifest.json")
    # Of another plan: finalising says so; until then nothing of it may be written over.
    return plan.digests.index(manifest.plan) if manifest.plan in plan.digests else plan.generations


def begin(job: Job, plan: Plan) -> None:
    """Writes `run.json`: what this job is, so that a later command knows whether it is the same."""
    facts = {
        "run_id": job.run_id,
        "identity": {"tower": job.tower.to_json(), **_facts(job.config, plan)},
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


def _standing_identity(images: Folder, plan: Plan) -> dict[str, Any] | None:
    """Identity of the job whose work stands in a tower's folder, from its manifest or its run.json."""
    if images.exists("manifest.json"):
        text = images.read("manifest.json")
        manifest = ImagesManifest.from_json(text, f"{images.path}/manifest.json")
        first = plan.digests[0] if manifest.plan in plan.digests else manifest.plan
        facts = job_facts(first, manifest.dtype, manifest.views, manifest.view_rules)
        return {"tower": manifest.tower.to_json(), **facts}
    if images.exists("run.json"):
        return json.loads(images.read("run.json"))["identity"]
    return None


def _refuse_other(job: Job, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    if differing := differences(wanted, found, ignore=("tower.tower",)):
        raise ValueError(
            f"{job.images.path} holds another job:\n" + "\n".join(f"  {line}" for line in differing) + "\n"
            "Give the same options to go on with it, or another --tower-id to make a folder beside it."
        )
