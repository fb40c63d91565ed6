"""`lit-embed --dry-run`: the plan in words, and what it will take, measured on some records; nothing is written."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import pyarrow as pa

from lit_precompute.agreement import Agreement, agree_plan
from lit_precompute.config import EmbedConfig
from lit_precompute.decode import DecodeLimits
from lit_precompute.decode_pool import DecodePool
from lit_precompute.embedder import Embedder
from lit_precompute.job import Job, open_job
from lit_precompute.limit import count_records
from lit_precompute.parts import embeddings_table, encode_table
from lit_precompute.records import DamagedInput, Record
from lit_precompute.sources import SOURCES
from lit_precompute.tally import Tally
from lit_precompute.towers import Tower, load_tower
from lit_precompute.units import Slice, Unit, bare_name
from pipelines.finish.standing import units_to_do
from pipelines.store.meter import duration_text, size_text
from schemas.pairs import PAIRS_SCHEMA
from schemas.storage import StorageOptions, read_storage_options

SAMPLE_UNITS = 4  # spread over the plan
SAMPLE_RECORDS = 64  # of each
COUNTED_UNITS = 200  # units whose records are counted from footers and ranges; of more plans, so many are


@dataclass(frozen=True)
class Sample:
    """What some records took.

    Attributes:
        seen, embedded, failed: records.
        seconds: from storage to vectors, on this process, compilation apart.
        images_bytes, pairs_bytes: bytes of a part's rows made of them.
        input_bytes: encoded images and captions.
    """

    seen: int
    embedded: int
    failed: int
    seconds: float
    images_bytes: int
    pairs_bytes: int
    input_bytes: int


def dry_run(config: EmbedConfig) -> str:
    """The lines to print.

    Raises:
        ValueError, OSError: as the run itself would.
    """
    storage = read_storage_options(config.work.storage_options)
    tower = load_tower(config.tower, storage)
    agreement = agree_plan(config, storage)
    job = open_job(config, tower.info, agreement.plan, storage)
    units = [unit for _, unit in units_to_do(job, agreement.plan)]
    lines = [*_plan_lines(agreement, units), *_tower_lines(job)]
    if units:
        sample = _measure(config, tower, units, storage)
        lines += _cost_lines(config, units, sample, storage)
    return "\n".join([*lines, f"store      {config.output}: nothing was written"])


def _plan_lines(agreement: Agreement, units: Sequence[Unit]) -> list[str]:
    plan, standing = agreement.plan, agreement.standing
    files = _files(plan.units)
    sizes = sorted(sum(part.size for part in unit.slices) for unit in units) or [0]
    smallest, median, largest = (size_text(sizes[place]) for place in (0, len(sizes) // 2, -1))
    lines = [
        f"plan       {len(plan.units):,} units of {len(files):,} files, {size_text(sum(files.values()))}",
        f"to do      {len(units):,} units"
        + (f", {units[0].name} to {units[-1].name}" if units else ": all of them are done"),
    ]
    if units:
        lines.append(f"unit       {smallest} to {largest} of files, median {median}")
    if standing is not None and len(plan.units) > len(standing.units):
        lines.append(
            f"appended   {len(plan.units) - len(standing.units):,} units, as generation {plan.generations - 1}"
        )
    shown = [_slice_text(part) for unit in units[:3] for part in unit.slices[:2]]
    return lines + [f"input      {text}" for text in shown[:4]] + (["input      …"] if len(units) > 3 else [])


def _tower_lines(job: Job) -> list[str]:
    size = job.tower.preprocessing.get("image_size")
    pixels = f"uint8 [{job.config.work.batch_size}, {size}, {size}, 3]" if size else "images of varying size"
    return [
        f"tower      {job.tower_id}: {job.tower.tower}, {pixels} -> float32 "
        f"[{job.config.work.batch_size}, {job.tower.embedding_dim}]",
        f"stored     {job.tower.embedding_dim:,} x {job.config.dtype}{_views_text(job.config.views)}",
        f"run_id     {job.run_id}",
    ]


def _views_text(views: int) -> str:
    return "" if views == 1 else f", {views} views of each image"


def _measure(config: EmbedConfig, tower: Tower, units: Sequence[Unit], storage: StorageOptions) -> Sample:
    places = np.unique(np.linspace(0, len(units) - 1, SAMPLE_UNITS).astype(int)).tolist()
    embedder = Embedder(tower, config.work.batch_size)
    tally = Tally(max_failure_rate=1.0)
    limits = DecodeLimits(max_pixels=config.limits.max_pixels, max_bytes=config.limits.max_bytes)
    bytes_read = 0

    def records() -> Iterator[Record]:
        nonlocal bytes_read
        for record in _first_of([units[place] for place in places], config, storage):
            bytes_read += len(record.image or b"") + sum(len(one.text) for one in record.captions)
            yield record

    rows = []
    threads, patience = config.work.decode_threads, config.limits.decode_timeout
    with DecodePool(threads, tower.preprocess, limits, patience, views=config.views) as pool:
        images = tally.images(pool.stream(tally.accept(records())))
        first = next(images, None)
        if first is not None:  # compiles, apart from the clock
            list(embedder.stream_views([(None, first[1])]))
        started = time.monotonic()
        waiting = [first] if first is not None else []
        for item, found in embedder.stream_views(chain(waiting, images)):
            rows.append((str(item.record.id), item.sha256, found))
        seconds = time.monotonic() - started
    images_bytes = 0
    if rows:
        ids, digests, vectors = zip(*rows, strict=True)
        stored = np.nan_to_num(np.concatenate(vectors))
        table = embeddings_table(list(ids), config.views, list(digests), stored, config.dtype)
        images_bytes = len(encode_table(table))
    pairs_bytes = len(encode_table(pa.Table.from_pylist(tally.pairs, schema=PAIRS_SCHEMA)))
    return Sample(tally.seen, len(rows), len(tally.failures), seconds, images_bytes, pairs_bytes, bytes_read)


def _first_of(units: Sequence[Unit], config: EmbedConfig, storage: StorageOptions) -> Iterator[Record]:
    source = SOURCES[config.source.format]
    for unit in units:
        most = SAMPLE_RECORDS if unit.limit is None else min(SAMPLE_RECORDS, unit.limit)
        try:
            read = source.read_unit(unit, config.source, storage, config.limits.max_bytes)
            yield from islice(read, most)
        except DamagedInput:
            continue


def _cost_lines(
    config: EmbedConfig, units: Sequence[Unit], sample: Sample, storage: StorageOptions
) -> list[str]:
    found = [
        f"sample     {sample.seen:,} records in {sample.seconds:,.2f} s: {sample.embedded:,} embedded, "
        f"{sample.failed:,} failed"
    ]
    if not sample.embedded:
        return [*found, "time       unknown: none of the sample could be embedded"]
    records, how = _records(config, units, sample, storage)
    rate = sample.seen / max(sample.seconds, 1e-9)
    stored = size_text(records * (sample.images_bytes + sample.pairs_bytes) / sample.seen)
    read = size_text(records * sample.input_bytes / sample.seen)
    return [
        *found,
        f"records    about {records:,} ({how})",
        f"time       about {duration_text(records / rate)} at {rate:,.1f} images/s, on one process like this one",
        f"bytes      about {stored} to be written, from {read} of images and captions",
    ]


def _records(
    config: EmbedConfig, units: Sequence[Unit], sample: Sample, storage: StorageOptions
) -> tuple[int, str]:
    """How many records the units hold, and how that is known."""
    if config.source.limit is not None:
        return config.source.limit, "at most, --limit"
    total = sum(_files(units).values())
    if config.source.format in ("webdataset", "tfrecord", "tfds"):
        return round(total * sample.seen / max(1, sample.input_bytes)), "from the size of those in the sample"
    step = max(1, len(units) // COUNTED_UNITS)
    counted = units[::step]
    held = sum(count_records(unit, config.source, storage) for unit in counted)
    if step == 1:
        return held, "counted"
    return round(held * len(units) / len(counted)), f"counted in {len(counted):,} units"


def _files(units: Sequence[Unit]) -> dict[str, int]:
    return {part.path: max(part.size, 0) for unit in units for part in unit.slices}


def _slice_text(part: Slice) -> str:
    cut = "" if part.first is None and part.last is None else f" [{part.first or 0}:{part.last or ''}]"
    return f"{bare_name(part.path)}{cut}"
