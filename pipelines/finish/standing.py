"""What a tower's folder holds already when inputs were appended: the manifest of the generations before."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from lit_precompute.job import Job, standing_manifest
from lit_precompute.plan import Plan, read_plan
from lit_precompute.publish import remove
from lit_precompute.units import Unit
from schemas.failures import EXCLUDED_SCHEMA, FAILURES_SCHEMA
from schemas.manifest import ImagesManifest, PairsManifest, PartEntry, parts_from_table
from schemas.storage import Folder

_RETRY = re.compile(r"-r(\d+)(?:\.parquet)?$")
TABLES = ("parts", "failures", "excluded")


@dataclass(frozen=True)
class Standing:
    """A finished folder of fewer generations than the plan has; its tables are read when they are asked for.

    Attributes:
        folder: of the tower.
        manifest: as it stands.
        generation: the last one it has.
    """

    folder: Folder
    manifest: ImagesManifest
    generation: int

    @cached_property
    def parts(self) -> list[PartEntry]:
        return parts_from_table(self.folder.read_table(f"parts{self.manifest.tables}.parquet"))

    @cached_property
    def failures(self) -> pa.Table:
        return self.folder.read_table(f"failures{self.manifest.tables}.parquet", FAILURES_SCHEMA)

    @cached_property
    def excluded(self) -> pa.Table:
        return self.folder.read_table(f"excluded{self.manifest.tables}.parquet", EXCLUDED_SCHEMA)


def standing(job: Job, plan: Plan) -> Standing | None:
    """What stands of the job; None when nothing is finished yet."""
    manifest = standing_manifest(job)
    if manifest is None:
        return None
    return Standing(job.images, manifest, plan.digests.index(manifest.plan))


def plan_of(job: Job) -> Plan:
    """The job's plan, without what another launch has appended since."""
    plan = read_plan(job.store)
    return plan.upto(plan.digests.index(job.plan)) if job.plan in plan.digests else plan


def units_to_do(job: Job, plan: Plan) -> list[tuple[int, Unit]]:
    """The units of this launch that no manifest has yet, each with its place in the plan."""
    found = standing(job, plan)
    done = -1 if found is None else found.generation
    ours = job.config.work.units_of(len(plan.units))
    return [(place, plan.units[place]) for place in ours if plan.units[place].generation > done]


def damaged_parts(job: Job) -> list[str]:
    """What is wrong with the parts that a finished folder's manifest names: those gone, or cut short."""
    manifest = standing_manifest(job)
    if manifest is None:
        return []
    sizes, problems = job.images.sizes(), []
    for part in parts_from_table(job.images.read_table(f"parts{manifest.tables}.parquet")):
        if part.name not in sizes:
            problems.append(f"{part.name} is gone")
        elif sizes[part.name] != part.bytes:
            problems.append(f"{part.name} must have {part.bytes:,} bytes, found {sizes[part.name]:,}")
    return problems


def tables_of(plan: Plan) -> str:
    """What the names of the tables beside a manifest end in.

    A new manifest never speaks of the tables of the one before, so that swapping it is one step: `parts.parquet`
    for the first generation, `parts-g001.parquet` once inputs were appended.
    """
    return f"-g{plan.generations - 1:03d}" if plan.generations > 1 else ""


def retries_in(names: Iterable[str]) -> int:
    """The highest number of a retry in file names, such as `embeddings-g000-00007-r001.parquet`; 0 for none."""
    return max((int(found[1]) for name in names if (found := _RETRY.search(name))), default=0)


def remove_stale_retries(folder: Folder, manifest: ImagesManifest) -> None:
    """Removes the parts of retries that never came to be."""
    there = [name for name in folder.sizes() if name.startswith("embeddings-") and _RETRY.search(name)]
    if there:
        known = {part.name for part in parts_from_table(folder.read_table(f"parts{manifest.tables}.parquet"))}
        for name in set(there) - known:
            remove(folder, name)


def standing_pairs(pairs: Folder) -> PairsManifest | None:
    """The manifest of the text side, when there is one."""
    if not pairs.exists("manifest.json"):
        return None
    return PairsManifest.from_json(pairs.read("manifest.json"), f"{pairs.path}/manifest.json")


def remove_stale_tables(folder: Folder, tables: str) -> None:
    """Removes the tables of manifests that were swapped, or never came to be."""
    for name in folder.sizes():
        kind, _, _ = name.removesuffix(".parquet").partition("-")
        if kind in TABLES and name != f"{kind}{tables}.parquet":
            remove(folder, name)
