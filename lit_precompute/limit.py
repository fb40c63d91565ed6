"""The first records of a plan: which units they are in, and how many of the last one."""

from collections.abc import Iterable
from dataclasses import replace

from lit_precompute.config import SourceConfig
from lit_precompute.records import DamagedInput
from lit_precompute.sources import SOURCES
from lit_precompute.sources.image_files import IMAGE_SUFFIXES
from lit_precompute.sources.opening import InputStream
from lit_precompute.sources.parquet_file import ParquetInput
from lit_precompute.units import Slice, Unit
from schemas.storage import StorageOptions


def first_records(
    units: Iterable[Unit], source: SourceConfig, options: StorageOptions | None = None
) -> tuple[Unit, ...]:
    """The units that hold the first `source.limit` records, the last of them cut to what is wanted of it.

    Units are counted until there are enough: from ranges, footers and names where these tell, else by reading them.

    Raises:
        OSError: storage trouble.
    """
    assert source.limit is not None
    kept: list[Unit] = []
    left = source.limit
    for unit in units:
        held = count_records(unit, source, options, left + 1)
        kept.append(replace(unit, limit=left) if held > left else unit)
        left -= held
        if left <= 0:
            break
    return tuple(kept)


def count_records(
    unit: Unit, source: SourceConfig, options: StorageOptions | None = None, most: int | None = None
) -> int:
    """Records of a unit, damaged ones included; counting may stop at `most`.

    Raises:
        OSError: storage trouble.
    """
    if source.format == "folder":
        return sum(part.path.rpartition(".")[2].lower() in IMAGE_SUFFIXES for part in unit.slices)
    if source.format == "parquet":
        return sum(_parquet_rows(part, options) for part in unit.slices)
    if source.format != "webdataset" and all(part.last is not None for part in unit.slices):
        return sum((part.last or 0) - (part.first or 0) for part in unit.slices)
    return _read_and_count(unit, source, options, most)


def _parquet_rows(part: Slice, options: StorageOptions | None) -> int:
    try:
        with InputStream(part, options) as stream:
            metadata = ParquetInput(stream).metadata
            last = metadata.num_row_groups if part.last is None else part.last
            return sum(metadata.row_group(group).num_rows for group in range(part.first or 0, last))
    except DamagedInput:
        return 0


def _read_and_count(
    unit: Unit, source: SourceConfig, options: StorageOptions | None, most: int | None
) -> int:
    held = 0
    try:
        for _ in SOURCES[source.format].read_unit(unit, source, options, 0):  # no image is kept
            held += 1
            if held == most:
                break
    except DamagedInput:
        pass
    return held
