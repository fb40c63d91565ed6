"""Manifests: the small JSON files that say a folder of parts is finished, and what it holds."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import pyarrow as pa

from schemas.digests import sha256_json

VERSION = 1

_SAID_WHERE_THEY_HOLD = ("tables", "view_rules")  # once inputs were appended; of several views

M = TypeVar("M", bound="_Manifest")


@dataclass(frozen=True)
class TowerInfo:
    """Everything that decides what a locked image tower says about an image.

    Attributes:
        tower: the family or preset by name, such as `efficientnet-lite0`.
        architecture: what the family needs to rebuild the network (JSON values).
        weights: sha256 (hex) of the checkpoint's bytes, or `random:SEED`.
        features: which vector is taken, such as `pooled` or `pre-head`.
        preprocessing: everything between encoded bytes and network input (JSON values).
        embedding_dim: D.
    """

    tower: str
    architecture: Mapping[str, Any]
    weights: str
    features: str
    preprocessing: Mapping[str, Any]
    embedding_dim: int

    @property
    def space_id(self) -> str:
        """Hex digest: are two vectors of one space? The name of the tower does not enter."""
        facts = self.to_json()
        del facts["tower"]
        return sha256_json(facts)

    @property
    def default_tower_id(self) -> str:
        return f"{self.tower}-{self.space_id[:8]}"

    def to_json(self) -> dict[str, Any]:
        return {
            "tower": self.tower,
            "architecture": dict(self.architecture),
            "weights": self.weights,
            "features": self.features,
            "preprocessing": dict(self.preprocessing),
            "embedding_dim": self.embedding_dim,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TowerInfo":
        return cls(**_known(cls, value, "tower"))


@dataclass(frozen=True)
class PartEntry:
    """One line of `parts.parquet`.

    Attributes:
        name: bare file name.
        unit: the unit it was made from, such as `g000-00007`.
        rows: rows in the file.
        bytes: size of the file.
        sha256: of the file's bytes (hex).
        content: digest of the rows (`schemas.digests.table_digest`), blind to compression.
        pairs_part: for an embeddings part, the pairs part that holds its ids; else None.
    """

    name: str
    unit: str
    rows: int
    bytes: int
    sha256: str
    content: str
    pairs_part: str | None = None

    def __post_init__(self) -> None:
        for name in (self.name, self.pairs_part or ""):
            if "/" in name or "\\" in name or name.startswith("."):
                raise ValueError(f"parts: a part's name must be a bare file name, found {name!r}.")


PARTS_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("unit", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("content", pa.string()),
        ("pairs_part", pa.string()),
    ]
)


def parts_to_table(parts: list[PartEntry]) -> pa.Table:
    return pa.Table.from_pylist([asdict(part) for part in parts], schema=PARTS_SCHEMA)


def parts_from_table(table: pa.Table) -> list[PartEntry]:
    return [PartEntry(**row) for row in table.select(PARTS_SCHEMA.names).to_pylist()]


class _Manifest:
    """What both kinds of manifest share: a format name, a version, JSON both ways."""

    FORMAT: str

    def to_json(self) -> str:
        body = {"format": self.FORMAT, "version": VERSION}
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if one.name not in _SAID_WHERE_THEY_HOLD or value:
                body[one.name] = value.to_json() if isinstance(value, TowerInfo) else value
        return json.dumps(body, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls: type[M], text: str | bytes, where: str = "manifest.json") -> M:
        try:
            body = json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"{where}: must be JSON, found {error}. Restore the file or make the store anew."
            ) from None
        if not isinstance(body, dict) or body.get("format") != cls.FORMAT:
            found = body.get("format") if isinstance(body, dict) else type(body).__name__
            raise ValueError(f"{where}: format must be {cls.FORMAT!r}, found {found!r}.")
        if body.get("version") != VERSION:
            raise ValueError(
                f"{where}: this release reads version {VERSION}, found {body.get('version')!r}. "
                "Open the store with the release that wrote it."
            )
        values = _known(cls, {k: v for k, v in body.items() if k not in ("format", "version")}, where)
        if "tower" in values:
            values["tower"] = TowerInfo.from_json(values["tower"])
        return cls(**values)


@dataclass(frozen=True)
class PairsManifest(_Manifest):
    """Summary of `pairs/`.

    Attributes:
        plan: digest of the plan the parts follow.
        source: what ids and texts depend on (format, columns), JSON values.
        content: digest over the content digests of all parts, in plan order.
        parts: how many.
        counts: records, records_with_captions, captions, and captions left out by reason.
        tables: what the names of the tables it speaks of end in: `parts<tables>.parquet`.
    """

    FORMAT = "lit-precompute/pairs"

    plan: str
    source: Mapping[str, Any]
    content: str
    parts: int
    counts: Mapping[str, int]
    tables: str = ""


@dataclass(frozen=True)
class ImagesManifest(_Manifest):
    """Summary of `images/<tower_id>/`: written last, its presence means the folder is whole.

    Attributes:
        tower_id: the folder's name.
        tower: what made the vectors.
        space_id, run_id, content_id: the three digests; see `docs/file-format.md`.
        dtype: "float16" or "float32".
        views: rows per image.
        view_rules: number of the rules that views 1 and on were drawn by; 0 where there is only view 0.
        plan, pairs: digest of the plan; content digest of `pairs/`.
        parts: how many.
        counts: seen = embedded + failed + duplicate; distinct_images: different bytes among those embedded.
        failures: failed records by reason.
        damaged: units whose input broke off, taken as they are (`--accept-damaged`).
        tables: what the names of the tables it speaks of end in: `parts<tables>.parquet` and so on.
    """

    FORMAT = "lit-precompute/images"

    tower_id: str
    tower: TowerInfo
    space_id: str
    run_id: str
    content_id: str
    dtype: str
    views: int
    plan: str
    pairs: str
    parts: int
    counts: Mapping[str, int]
    failures: Mapping[str, int]
    damaged: list[str] = field(default_factory=list)
    tables: str = ""
    view_rules: int = 0

    def __post_init__(self) -> None:
        if self.space_id != self.tower.space_id:
            raise ValueError(
                f"manifest of {self.tower_id}: space_id must be the digest of its tower's facts "
                f"({self.tower.space_id[:12]}…), found {self.space_id[:12]}…. The manifest was edited; restore it."
            )

    @property
    def embedding_dim(self) -> int:
        return self.tower.embedding_dim


def job_facts(plan: str, dtype: str, views: int, view_rules: int) -> dict[str, Any]:
    """What makes a job this one beside its space; `run_id` is the digest of both.

    Args:
        plan: digest of its first generation.
        dtype, views, view_rules: as in `ImagesManifest`.
    """
    facts = {"plan": plan, "dtype": dtype, "views": views}
    return facts | ({"view_rules": view_rules} if view_rules else {})


def content_digest(parts: list[PartEntry], *others: str) -> str:
    """Digest over the content digests of parts, in order, and whatever else belongs to the content."""
    return sha256_json([[part.content for part in parts], *others])


def generation_of(unit: str) -> int:
    """The generation in a unit's name.

    >>> generation_of("g001-00007")
    1
    """
    return int(unit.removeprefix("g").partition("-")[0])


def contents_by_generation(parts: list[PartEntry]) -> dict[str, int]:
    """Content digest of pairs up to each generation that has parts, and that generation (-1 for no parts at all).

    Args:
        parts: in plan order.
    """
    ends = [
        place
        for place, part in enumerate(parts, 1)
        if place == len(parts) or generation_of(parts[place].unit) != generation_of(part.unit)
    ]
    found = {content_digest([]): -1}
    return found | {content_digest(parts[:end]): generation_of(parts[end - 1].unit) for end in ends}


def _known(cls: type, value: Mapping[str, Any], where: str) -> dict[str, Any]:
    names = {one.name for one in fields(cls)}
    required = names - {"damaged", *_SAID_WHERE_THEY_HOLD}
    if missing := sorted(required - set(value)):
        raise ValueError(f"{where}: must have {', '.join(missing)}; not found. Restore the file.")
    if surplus := sorted(set(value) - names):
        raise ValueError(
            f"{where}: unknown fields {', '.join(surplus)}: written by another release? Use that one."
        )
    return dict(value)
