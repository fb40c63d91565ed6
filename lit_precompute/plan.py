"""The work, cut into units once and written down, so that every run and every worker means the same by a number."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lit_precompute.config import SourceConfig, source_facts
from lit_precompute.publish import replace
from lit_precompute.sources import SOURCES
from lit_precompute.sources.listing import list_inputs
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
    ]
)
_FACTS = b"lit-precompute"


@dataclass(frozen=True)
class Plan:
    """All units of a store.

    Attributes:
        units: in order.
        source: what ids and texts depend on beside the files (JSON values).
        root: the folder that names made from paths are relative to.
    """

    units: tuple[Unit, ...]
    source: Mapping[str, Any]
    root: str

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of the files (names below the root, sizes, versions), how they are cut, and the source."""
        slices = [part for unit in self.units for part in unit.slices]
        facts = {
            "source": dict(self.source),
            "units": [[unit.generation, unit.number, len(unit.slices)] for unit in self.units],
            "paths": [printable(relative_name(part.path, self.root)) for part in slices],
            "sizes": [part.size for part in slices],
            "versions": [part.version for part in slices],
            "ranges": [[part.first, part.last] for part in slices],
        }
        return sha256_json(facts)

    def to_table(self) -> pa.Table:
        """One row per slice, in order; source and root in the schema's metadata."""
        rows = [
            (unit.number, unit.generation, place, part)
            for unit in self.units
            for place, part in enumerate(unit.slices)
        ]
        slices = [row[3] for row in rows]
        columns = {
            "unit": [row[0] for row in rows],
            "generation": [row[1] for row in rows],
            "position": [row[2] for row in rows],
            "size": [part.size for part in slices],
            "version": [part.version for part in slices],
            "first": [part.first for part in slices],
            "last": [part.last for part in slices],
        }
        paths = _path_column([part.path for part in slices])
        arrays = [
            paths if field.name == "path" else pa.array(columns[field.name], field.type)
            for field in PLAN_SCHEMA
        ]
        facts = json.dumps({"source": dict(self.source), "root": self.root}, sort_keys=True)
        schema = PLAN_SCHEMA.set(3, pa.field("path", paths.type, nullable=False))
        return pa.Table.from_arrays(arrays, schema=schema.with_metadata({_FACTS: facts}))

    @classmethod
    def from_table(cls, table: pa.Table) -> "Plan":
        """The plan a table was made from."""
        facts = json.loads(table.schema.metadata[_FACTS])
        root = facts["root"]
        paths = [_as_path(path) for path in table["path"].to_pylist()]
        values = [table[name].to_pylist() for name in ("size", "version", "first", "last")]
        slices = list(map(Slice, paths, *values))
        starts = np.flatnonzero(table["position"].to_numpy() == 0)
        ends = np.append(starts, len(slices))[1:]
        keys = (table[name].to_numpy()[starts].tolist() for name in ("generation", "unit"))
        spans = zip(*keys, starts.tolist(), ends.tolist(), strict=True)
        units = tuple(
            Unit(generation, number, tuple(slices[start:end]), root)
            for generation, number, start, end in spans
        )
        return cls(units, facts["source"], root)


def make_plan(
    source: SourceConfig,
    unit_bytes: int = 64 << 20,
    options: StorageOptions | None = None,
    generation: int = 0,
) -> Plan:
    """Lists the input and cuts it into units; the same input gives the same plan.

    Args:
        source: what to read.
        unit_bytes: about how much input makes a unit.
        options: fsspec options by protocol.
        generation: 0 for a new store.

    Raises:
        ValueError: a pattern that matches nothing, or columns that are not there.
        OSError: the storage can not be listed.
    """
    module = SOURCES[source.format]
    listing = list_inputs(source.input, module.SUFFIXES, options)
    pieces = module.list_slices(listing, source, unit_bytes, options)
    units = (Unit(generation, number, slices, listing.root) for number, slices in enumerate(pieces))
    return Plan(tuple(units), source_facts(source), listing.root)


def write_plan(store: Folder, plan: Plan) -> None:
    """Puts the plan into the store, in one step."""
    sink = pa.BufferOutputStream()
    pq.write_table(plan.to_table(), sink, compression="zstd")
    replace(store, PLAN_FILE, sink.getvalue().to_pybytes())


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
    return Plan(tuple(unit for unit in plan.units if unit.name in names), plan.source, plan.root)


def _path_column(paths: Sequence[str]) -> pa.Array:
    try:
        return pa.array(paths, pa.string())
    except UnicodeEncodeError:  # file names on Linux are bytes
        return pa.array([path.encode("utf-8", "surrogateescape") for path in paths], pa.binary())


def _as_path(stored: str | bytes) -> str:
    return stored if isinstance(stored, str) else stored.decode("utf-8", "surrogateescape")
