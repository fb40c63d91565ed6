"""Data sets prepared by TensorFlow Datasets, read without TensorFlow.

A prepared data set is `<name>[/<config>]/<version>/` with `dataset_info.json`, which names the files of each split, and
these files: TFRecord (the default), or ArrayRecord, which the package `array_record` (extra `tfds`) reads.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from lit_precompute.config import SourceConfig
from lit_precompute.records import DamagedInput, Record
from lit_precompute.sources.damage import read_past_damage
from lit_precompute.sources.listing import Listing
from lit_precompute.sources.opening import InputStream, read_whole
from lit_precompute.sources.tf_example import feature_names
from lit_precompute.sources.tfrecord import (
    BESIDE_IMAGE,
    Example,
    check_features,
    check_first_readable,
    example_records,
    read_file,
)
from lit_precompute.units import Slice, Unit, bare_name
from schemas.storage import StorageOptions

SUFFIXES = ("",)  # shards are named split.format-00000-of-00012
INFO = "dataset_info.json"
FORMATS = ("tfrecord", "array_record")
SHARED_FILES = 64  # small shards in a unit, at most
_BUILDER = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Prepared:
    """A prepared data set.

    Attributes:
        folder: of its files.
        name, config, version: as `tfds.builder` has them; config "" when there is none.
        info: `dataset_info.json`.
    """

    folder: str
    name: str
    config: str
    version: str
    info: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.name}{f'/{self.config}' if self.config else ''}:{self.version}"

    @property
    def order(self) -> tuple[int, ...]:
        return tuple(map(int, self.version.split(".")))


def list_slices(
    listing: Listing, config: SourceConfig, unit_bytes: int, options: StorageOptions | None = None
) -> list[tuple[Slice, ...]]:
    """The shards of the splits, in order; neighbouring small ones share a unit, up to `unit_bytes` or 64 of them.

    Raises:
        ValueError: no such data set, or several; no such split; a shard that is not there; the first example lacks the
            image or the id.
        OSError: storage trouble.
    """
    shards = files_that_count(listing, config, options)
    if _is_array_record(shards[0]):
        _check_array_record(shards[0], config)
    else:
        check_first_readable(shards, config, options)
    units: list[list[Slice]] = []
    for shard in shards:
        held = sum(one.size for one in units[-1]) if units else 0
        if not units or len(units[-1]) == SHARED_FILES or held + shard.size > unit_bytes:
            units.append([])
        units[-1].append(shard)
    return [tuple(unit) for unit in units]


def read_unit(
    unit: Unit, config: SourceConfig, options: StorageOptions | None = None, max_bytes: int = 64 << 20
) -> Iterator[Record]:
    """The examples of a unit's shards, in order; features are named as in `features.json`, nested ones with slashes.

    Args:
        unit: its slices are shards.
        config: which features are read.
        options: fsspec options by protocol.
        max_bytes: a larger image is not kept and its record says so.

    Raises:
        DamagedInput: after every example before the break.
        OSError: storage trouble that stayed, or a file that is not the one planned.
    """
    positions = count()
    return read_past_damage(
        partial(_read_shard, part, unit.root, config, options, max_bytes, positions) for part in unit.slices
    )


def files_that_count(
    listing: Listing, config: SourceConfig, options: StorageOptions | None = None
) -> list[Slice]:
    """The shards of the splits, in order. Raises ValueError as `list_slices`."""
    dataset = _chosen(_prepared(listing, options), config)
    by_path = {file.path: file for file in listing.files}
    known = {split["name"]: split for split in dataset.info.get("splits", [])}
    wanted = (config.split or "").split("+")
    if missing := [name for name in wanted if name not in known]:
        raise ValueError(
            f"--split: {dataset.title} must have {', '.join(missing)}, found {', '.join(sorted(known)) or 'none'}. "
            "Of a part of a split, take the first records with --limit."
        )
    paths = [path for name in wanted for path in _shard_paths(dataset, known[name])]
    if lacking := [path for path in paths if path not in by_path]:
        raise ValueError(
            f"--input: {dataset.title} must have all {len(paths):,} files of its splits, {len(lacking):,} are not "
            f"there ({bare_name(lacking[0])}). Prepare it again."
        )
    if not paths:
        raise ValueError(f"--split: {dataset.title} must have examples in {config.split}, found none.")
    return [by_path[path] for path in paths]


def _prepared(listing: Listing, options: StorageOptions | None) -> list[Prepared]:
    """Every prepared data set among the files."""
    found = []
    for file in listing.files:
        folder, _, name = file.path.rpartition("/")
        if name != INFO:
            continue
        try:
            info = json.loads(read_whole(file, options))
            assert isinstance(info, dict)
        except (ValueError, AssertionError):
            raise ValueError(f"{bare_name(folder)}/{INFO}: must be a JSON object, found otherwise.") from None
        version = str(info.get("version") or bare_name(folder))
        if _VERSION.fullmatch(version):
            found.append(
                Prepared(folder, str(info.get("name")), str(info.get("configName") or ""), version, info)
            )
    return found


def _chosen(found: Sequence[Prepared], config: SourceConfig) -> Prepared:
    wanted = _BUILDER.fullmatch(config.builder) if config.builder is not None else None
    if config.builder is not None and wanted is None:
        raise ValueError(
            f"--builder: must look like name, name/config or name/config:1.0.0, found {config.builder!r}."
        )
    fitting = [one for one in found if wanted is None or _fits(one, wanted)]
    newest = [one for one in fitting if all(one.order >= other.order for other in fitting)]
    if len({(one.name, one.config) for one in fitting}) != 1 or len(newest) != 1:
        titles = ", ".join(sorted(one.title for one in found)) or f"none (no {INFO} below --input)"
        raise ValueError(f"--builder: must name one prepared data set, found {titles}.")
    return newest[0]


def _fits(one: Prepared, wanted: re.Match[str]) -> bool:
    return (
        one.name == wanted["name"]
        and wanted["config"] in (None, one.config)
        and wanted["version"] in (None, one.version)
    )


def _shard_paths(dataset: Prepared, split: dict[str, Any]) -> list[str]:
    """Where a split's files are, from its template."""
    format = str(dataset.info.get("fileFormat") or "tfrecord")
    if format not in FORMATS:
        raise ValueError(f"{dataset.title}: its files must be {' or '.join(FORMATS)}, found {format}.")
    shards = len(split.get("shardLengths") or [])
    template = str(split.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}")
    paths = []
    for number in range(shards):
        words = {
            "DATASET": dataset.name,
            "SPLIT": split["name"],
            "FILEFORMAT": format,
            "SHARD_INDEX": f"{number:05}",
            "NUM_SHARDS": f"{shards:05}",
            "SHARD_X_OF_Y": f"{number:05}-of-{shards:05}",
        }
        name = re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], match[0]), template)  # noqa: B023
        paths.append(f"{dataset.folder}/{bare_name(name)}")
    return paths


def _read_shard(
    part: Slice,
    root: str,
    config: SourceConfig,
    options: StorageOptions | None,
    max_bytes: int,
    positions: Iterator[int],
) -> Iterator[Record]:
    if not _is_array_record(part):
        return read_file(part, root, config, options, max_bytes, positions)
    with InputStream(part, options):  # the size must be that of the plan
        examples = _array_record_examples(part, max_bytes + BESIDE_IMAGE)
    return example_records(examples, part.path, root, config, max_bytes, positions)


def _array_record_examples(part: Slice, most: int) -> Iterator[Example]:
    reader = _open_array_record(part)
    try:
        for number in range(reader.num_records()):
            (data,) = reader.read([number])
            if len(data) > most:
                yield Example(number, None, f"{len(data):,} bytes, the limit is {most:,}")
            else:
                yield Example(number, data)
        reader.close()  # says only now when nothing could be read at all
    except (RuntimeError, ValueError, IndexError) as error:
        raise DamagedInput(bare_name(part.path), f"not a whole ArrayRecord file: {error}") from None


def _open_array_record(part: Slice) -> Any:
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError:
        raise ValueError(
            f"{bare_name(part.path)}: the package array_record must be installed to read it (extra tfds)."
        ) from None
    if "://" in part.path:
        raise ValueError(
            f"{bare_name(part.path)}: ArrayRecord files must be local, found another storage. Copy them, or prepare "
            "the data set as tfrecord."
        )
    try:
        return ArrayRecordReader(part.path, options="readahead_buffer_size:0")
    except (RuntimeError, ValueError) as error:
        raise DamagedInput(bare_name(part.path), f"not an ArrayRecord file: {error}") from None


def _check_array_record(part: Slice, config: SourceConfig) -> None:
    try:
        first = next(_array_record_examples(part, 64 << 20), None)
        names = None if first is None or first.data is None else feature_names(first.data)
    except DamagedInput:
        return
    if names is not None:
        check_features(bare_name(part.path), names, config)


def _is_array_record(part: Slice) -> bool:
    return "array_record" in bare_name(part.path)
