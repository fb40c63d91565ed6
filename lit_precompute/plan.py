"""The work, cut into units once and written down, so that every run and every worker means the same by a number."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lit_precompute.config import SourceConfig, source_facts
from lit_precompute.limit import first_records
from lit_precompute.publish import publish
from lit_precompute.publish import replace as replace_file
from lit_precompute.sources import SOURCES
from lit_precompute.sources.listing import Listing, common_folder, list_inputs
from lit_precompute.units import Slice, Unit, printable, relative_name
from schemas.digests import sha256_json
from schemas.storage import Folder, StorageOptions

PLAN_FILE = "plan.parquet"
PLAN_SCHEMA = pa.schema(
    [
        pa.field("unit", pa.int32(), nullable=False),  # place of the unit in its generation
        pa.field("generation", pa.int32(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),  # place of the slice in its unit
        pa.field("path", pa.string(), nullable=False),  # binary when a file's name is not UTF-8
        pa.field("size", pa.int64(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("first", pa.int32()),  # row groups [first, last), or null for the whole file
        pa.field("last", pa.int32()),
        pa.field("limit", pa.int64()),  # records that are read of the unit, or null for all
        pa.field("accepted", pa.string()),  # a later version of the file found to hold the same, or null
    ]
)
_FACTS = b"lit-precompute"


@dataclass(frozen=True)
class Plan:
    """All units of a store.

    Attributes:
        units: in order, a generation after the other.
        source: what ids and texts depend on beside the files (JSON values).
        root: the folder that names made from paths are relative to, in generation 0.
        accepted: by path, a later version of a file that was found to hold the same.
    """

    units: tuple[Unit, ...]
    source: Mapping[str, Any]
    root: str
    accepted: Mapping[str, str] = field(default_factory=dict)

    @property
    def generations(self) -> int:
        """How many generations there are; the first is 0 and there always is one."""
        return 1 + (self.units[-1].generation if self.units else 0)

    def upto(self, generation: int) -> "Plan":
        """The plan as it was when `generation` was the last."""
        kept = (unit for unit in self.units if unit.generation <= generation)
        return Plan(tuple(kept), self.source, self.root, self.accepted)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """[generations]: `digest` of the plan up to each generation."""
        return tuple(sha256_json(self.upto(generation)._facts()) for generation in range(self.generations))

    @property
    def digest(self) -> str:
        """Hex sha256 of the files (names below the root, sizes, versions), how they are cut, and the source."""
        return self.digests[-1]

    def _facts(self) -> dict[str, Any]:
        parts = [(unit, part) for unit in self.units for part in unit.slices]
        facts = {
            "source": dict(self.source),
            "units": [[unit.generation, unit.number, len(unit.slices)] for unit in self.units],
            "paths": [printable(relative_name(part.path, unit.root)) for unit, part in parts],
            "sizes": [part.size for _, part in parts],
            "versions": [part.version for _, part in parts],
            "ranges": [[part.first, part.last] for _, part in parts],
        }
        limits = {unit.name: unit.limit for unit in self.units if unit.limit is not None}
        return facts | ({"limits": limits} if limits else {})

    def to_table(self) -> pa.Table:
        """One row per slice, in order; source and root in the schema's metadata."""
        rows = [(unit, place, part) for unit in self.units for place, part in enumerate(unit.slices)]
        slices = [part for _, _, part in rows]
        columns = {
            "unit": [unit.number for unit, _, _ in rows],
            "generation": [unit.generation for unit, _, _ in rows],
            "position": [place for _, place, _ in rows],
            "size": [part.size for part in slices],
            "version": [part.version for part in slices],
            "first": [part.first for part in slices],
            "last": [part.last for part in slices],
            "limit": [unit.limit for unit, _, _ in rows],
            "accepted": [self.accepted.get(part.path) for part in slices],
        }
        paths = _path_column([part.path for part in slices])
        arrays = [
            paths if field.name == "path" else pa.array(columns[field.name], field.type)
            for field in PLAN_SCHEMA
        ]
        roots = [self.root] + [unit.root for unit in self.units if unit.generation and not unit.number]
        facts = json.dumps({"source": dict(self.source), "roots": roots}, sort_keys=True)
        schema = PLAN_SCHEMA.set(3, pa.field("path", paths.type, nullable=False))
        return pa.Table.from_arrays(arrays, schema=schema.with_metadata({_FACTS: facts}))

    @classmethod
    def from_table(cls, table: pa.Table) -> "Plan":
        """The plan a table was made from."""
        facts = json.loads(table.schema.metadata[_FACTS])
        roots = facts["roots"]
        paths = [_as_path(path) for path in table["path"].to_pylist()]
        values = [table[name].to_pylist() for name in ("size", "version", "first", "last")]
        slices = list(map(Slice, paths, *values))
        starts = np.flatnonzero(table["position"].to_numpy() == 0)
        ends = np.append(starts, len(slices))[1:]
        keys = [table[name].take(starts).to_pylist() for name in ("generation", "unit", "limit")]
        units = tuple(
            Unit(generation, number, tuple(slices[start:end]), roots[generation], limit)
            for generation, number, limit, start, end in zip(
                *keys, starts.tolist(), ends.tolist(), strict=True
            )
        )
        changed = table.select(["path", "accepted"]).filter(pc.is_valid(table["accepted"]))
        accepted = {
            _as_path(path): version for path, version in zip(*changed.to_pydict().values(), strict=True)
        }
        return cls(units, facts["source"], roots[0], accepted)


def make_plan(
    source: SourceConfig, unit_bytes: int = 64 << 20, options: StorageOptions | None = None
) -> Plan:
    """Lists the input and cuts it into units; the same input gives the same plan.

    Args:
        source: what to read.
        unit_bytes: about how much input makes a unit.
        options: fsspec options by protocol.

    Raises:
        ValueError: a pattern that matches nothing, or columns that are not there.
        OSError: the storage can not be listed.
    """
    module = SOURCES[source.format]
    listing = list_inputs(source.input, module.SUFFIXES, options)
    pieces = module.list_slices(listing, source, unit_bytes, options)
    units = tuple(Unit(0, number, slices, listing.root) for number, slices in enumerate(pieces))
    if source.limit is not None:
        units = first_records(units, source, options)
    return Plan(units, source_facts(source), listing.root)


def extend_plan(
    plan: Plan,
    listing: Listing,
    source: SourceConfig,
    unit_bytes: int = 64 << 20,
    options: StorageOptions | None = None,
) -> Plan:
    """The plan with one more generation, made of inputs it does not have yet; what it has stays as it is.

    Names made from paths are relative to the deepest folder above the new inputs and those before them, so that the
    same name in another folder stays another name.

    Args:
        listing: the new files alone.

    Raises:
        ValueError: columns that are not there.
        OSError: storage trouble.
    """
    last = plan.units[-1] if plan.units else None
    root = common_folder([last.root if last else plan.root, listing.root])
    pieces = SOURCES[source.format].list_slices(listing, source, unit_bytes, options)
    added = (Unit(plan.generations, number, slices, root) for number, slices in enumerate(pieces))
    return replace(plan, units=(*plan.units, *added))


def write_plan(store: Folder, plan: Plan) -> None:
    """Puts the plan into the store, in one step, over the one that is there."""
    replace_file(store, PLAN_FILE, _encode(plan))


def publish_plan(store: Folder, plan: Plan) -> Plan:
    """Puts the first plan of a store into it, unless another launch was quicker; gives the one that stands.

    Raises:
        ValueError: another launch has planned another input.
    """
    if publish(store, PLAN_FILE, _encode(plan)):
        return plan
    standing = read_plan(store)
    if standing.digest != plan.digest:
        raise ValueError(
            f"{store.path}: another launch has just planned another input for this store. Run again to see how they "
            "differ, or write to another --output."
        )
    return standing


def _encode(plan: Plan) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(plan.to_table(), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_plan(store: Folder, names: Collection[str] | None = None) -> Plan:
    """The store's plan, or only some units of it.

    Args:
        store: where `plan.parquet` lies.
        names: unit names, such as "g000-00007"; None for all. Reading a few stays cheap when the plan is long.

    Raises:
        ValueError: there is no plan, or it is damaged.
    """
    table = store.read_table(PLAN_FILE)
    if names is not None:
        wanted = {tuple(map(int, name.removeprefix("g").split("-"))) for name in names}
        generations, numbers = ([key[place] for key in wanted] for place in (0, 1))
        table = table.filter(
            pc.and_(
                pc.is_in(table["generation"], pa.array(generations, pa.int32())),
                pc.is_in(table["unit"], pa.array(numbers, pa.int32())),
            )
        )
    plan = Plan.from_table(table)
    if names is None:
        return plan
    return replace(plan, units=tuple(unit for unit in plan.units if unit.name in names))


def _path_column(paths: Sequence[str]) -> pa.Array:
    try:
        return pa.array(paths, pa.string())
    except UnicodeEncodeError:  # file names on Linux are bytes
        return pa.array([path.encode("utf-8", "surrogateescape") for path in paths], pa.binary())


def _as_path(stored: str | bytes) -> str:
    return stored if isinstance(stored, str) else stored.decode("utf-8", "surrogateescape")
