"""`lit-store plan`: bytes and hours for N images, by plain arithmetic."""

import json
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lit_precompute.plan import read_plan
from pipelines.store.meter import duration_text, size_text
from schemas.embeddings import DTYPES
from schemas.storage import Folder, read_storage_options
from schemas.store import open_store

# A row beside its vector: sha256 (32 bytes, stored on both sides), norm (4), view (2), and an id of some 16.
EMBEDDING_ROW = 32 + 4 + 2 + 16
PAIRS_ROW = 32 + 16 + 8 + 64  # sha256, id, width and height, and a caption of some 64 bytes

SMALL_PARTS = 1000  # rows a part, below which its footer and headers weigh


@dataclass(frozen=True, kw_only=True)
class EstimateConfig:
    """Says what N images will cost: bytes of the store, hours of work. Nothing is read but a store's small files."""

    images: int
    """How many images there will be."""
    embedding_dim: int | None = None
    """D, the length of a vector; default that of --store."""
    dtype: Literal["float16", "float32"] | None = None
    """How a component is stored; default that of --store, else float16."""
    views: int = 1
    """Vectors per image, each a forward pass."""
    images_per_second: float | None = None
    """Forward passes a second of one worker; default what the run of --store took, start-up included."""
    workers: int = 1
    """Workers (accelerators, or machines) that share the work."""
    mean_image_bytes: float | None = None
    """Bytes of an encoded image; default that of --store's inputs."""
    store: str | None = None
    """A store to take measured figures from."""
    tower_id: str | None = None
    """Its tower; default the only one."""
    storage_options: str | None = None
    """JSON file of fsspec options by protocol."""

    def __post_init__(self) -> None:
        for name in ("images", "embedding_dim", "views", "images_per_second", "workers", "mean_image_bytes"):
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')}: must be above 0, found {value}.")
        if self.embedding_dim is None and self.store is None:
            raise ValueError("--embedding-dim: must be given, or a --store to take it from; found neither.")
        if self.tower_id is not None and self.store is None:
            raise ValueError("--tower-id: must come with the --store that has it, found none.")


@dataclass(frozen=True)
class Rates:
    """What one image costs.

    Attributes:
        embedding_dim, dtype: of a vector.
        embedding_row: bytes of a view's row in the store.
        pairs_row: bytes of an image's row on the text side.
        images_per_second: forward passes of one worker; None when unknown.
        image_bytes: of an encoded image; None when unknown.
        origin: where the figures come from, a line each.
    """

    embedding_dim: int
    dtype: str
    embedding_row: float
    pairs_row: float
    images_per_second: float | None
    image_bytes: float | None
    origin: tuple[str, ...] = ()


def estimate(config: EstimateConfig) -> str:
    """The lines to print.

    Raises:
        ValueError: there is no such store or tower.
    """
    return "\n".join(lines(config, rates_of(config)))


def rates_of(config: EstimateConfig) -> Rates:
    """Figures that were given, then those a store was measured at, then the format's own."""
    measured = None if config.store is None else _measured(config, config.store)
    dim = config.embedding_dim or (measured.embedding_dim if measured else 0)
    dtype = config.dtype or (measured.dtype if measured else "float16")
    if measured is not None and (dim, dtype) == (measured.embedding_dim, measured.dtype):
        rates = measured
    else:
        row = dim * np.dtype(DTYPES[dtype]).itemsize + EMBEDDING_ROW
        pairs_row = measured.pairs_row if measured else PAIRS_ROW
        rates = Rates(
            dim, dtype, row, pairs_row, None, None, ("rows uncompressed, with short ids and captions",)
        )
        if measured is not None:
            rates = replace(rates, image_bytes=measured.image_bytes, origin=rates.origin + measured.origin)
    return replace(
        rates,
        images_per_second=config.images_per_second or rates.images_per_second,
        image_bytes=config.mean_image_bytes or rates.image_bytes,
    )


def lines(config: EstimateConfig, rates: Rates) -> list[str]:
    """The arithmetic, shown."""
    passes = config.images * config.views
    vectors, texts = passes * rates.embedding_row, config.images * rates.pairs_row
    found = [
        f"images     {config.images:,}" + (f" x {config.views} views" if config.views > 1 else ""),
        f"vectors    {size_text(vectors)} = {passes:,} x {rates.embedding_row:,.1f} bytes "
        f"({rates.embedding_dim:,} x {rates.dtype})",
        f"pairs      {size_text(texts)} = {config.images:,} x {rates.pairs_row:,.1f} bytes",
        f"store      {size_text(vectors + texts)}",
    ]
    if rates.image_bytes:
        found.append(
            f"input      {size_text(config.images * rates.image_bytes)} = {config.images:,} x "
            f"{rates.image_bytes:,.0f} bytes"
        )
    if rates.images_per_second is None:
        found.append("time       unknown: give --images-per-second, or a --store whose run.json has it")
    else:
        found += _time_lines(config, rates, passes / rates.images_per_second)
    return found + [f"from       {line}" for line in rates.origin]


def _time_lines(config: EstimateConfig, rates: Rates, seconds: float) -> list[str]:
    worker_seconds, wall = seconds, seconds / config.workers
    assert rates.images_per_second is not None
    found = [
        f"work       {worker_seconds / 3600:,.2f} worker hours at {rates.images_per_second:,.1f} images/s",
        f"time       {duration_text(wall)} with {config.workers:,} worker{'s' * (config.workers > 1)}",
    ]
    if rates.image_bytes:
        reading = rates.image_bytes * rates.images_per_second * config.workers / config.views
        found.append(f"reading    {size_text(reading)}/s in all")
    return found


def _measured(config: EstimateConfig, path: str) -> Rates:
    """What a finished tower of a store cost."""
    store = open_store(path, read_storage_options(config.storage_options))
    known = store.tower_ids()
    if config.tower_id is None and len(known) != 1:
        raise ValueError(
            f"--tower-id: must name one tower of {path}, which has {', '.join(known) or 'none'}."
        )
    images = store.images(config.tower_id or known[0])
    manifest, pairs = images.manifest, store.pairs
    rows, records = sum(part.rows for part in images.parts), sum(part.rows for part in pairs.parts)
    seen = manifest.counts.get("seen", 0)
    if not rows or not records or not seen:
        raise ValueError(f"--store: {path} must hold images to measure by, found none.")
    slices = {part.path: part.size for unit in read_plan(store.folder).units for part in unit.slices}
    inputs = sum(max(size, 0) for size in slices.values())
    rate, origin = _measured_rate(images.folder, manifest.views)
    if rows < SMALL_PARTS * len(images.parts):
        origin += "; its parts are small, larger ones take fewer bytes a row"
    return Rates(
        manifest.embedding_dim,
        manifest.dtype,
        sum(part.bytes for part in images.parts) / rows,
        sum(part.bytes for part in pairs.parts) / records,
        rate,
        inputs / seen or None,
        (f"{path}, tower {manifest.tower_id}: {seen:,} images" + origin,),
    )


def _measured_rate(images: Folder, views: int) -> tuple[float | None, str]:
    """Forward passes a second of the last run that did work, start-up included, and a word about it."""
    try:
        run = json.loads(images.read("run.json"))
        count, seconds = int(run["images"]), float(run["seconds"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None, ""
    if count <= 0 or seconds <= 0:
        return None, ""
    return count * views / seconds, f"; {count:,} of them in {seconds:,.1f} s of one run, start-up included"
