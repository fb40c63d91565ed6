"""One JSON file that lists images with their captions, parsed once a process."""

import gzip
import io
import json
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from lit_precompute.config import SourceConfig
from lit_precompute.records import DamagedInput, Record
from lit_precompute.sources.damage import read_past_damage
from lit_precompute.sources.fields import Texts, metadata_of
from lit_precompute.sources.image_fetch import Problem, Wanted, demand_openable, fetch_ahead
from lit_precompute.sources.image_paths import places_of
from lit_precompute.sources.listing import Listing
from lit_precompute.sources.opening import read_whole
from lit_precompute.sources.spans import pack, split_evenly
from lit_precompute.units import Slice, Unit, bare_name
from schemas.storage import StorageOptions

SUFFIXES = (".json", ".json.gz")
UNIT_IMAGES = 2048
MAX_BYTES = 4 << 30  # of JSON; parsed it takes some times as much
KEPT = 2  # files kept parsed


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of the file.

    Attributes:
        place: in the file's list of images, from 0.
        id: what names it, or None.
        name: where its file is below the image root; anything where the JSON is wrong.
        captions: in the file's order, not looked at yet.
        metadata: kept beside it.
    """

    place: int
    id: str | None
    name: Any
    captions: Sequence[Any]
    metadata: dict[str, Any]


Parse = Callable[
    [dict[str, Any], SourceConfig], list[Entry]
]  # raises ValueError: what must hold and what was found

# The plan holds ranges of images, not the images: a worker parses the file again, once, and keeps it.
_PARSED: OrderedDict[tuple[Any, ...], list[Entry]] = OrderedDict()
_LOCK = threading.Lock()


def list_units(
    listing: Listing, config: SourceConfig, options: StorageOptions | None, parse: Parse
) -> list[tuple[Slice, ...]]:
    """Units of at most 2,048 images, in the order of the files and of the images in them.

    Raises:
        ValueError: a file is not JSON of the kind, or all of its first images lie where rows may not lead.
    """
    spans: list[tuple[Slice, int]] = []
    for file in listing.files:
        try:
            entries = _entries(file, config, options, parse)
        except ValueError as error:
            raise ValueError(f"{bare_name(file.path)}: {error}") from None
        names = [entry.name for entry in entries[:100] if isinstance(entry.name, str)]
        demand_openable(bare_name(file.path), names, places_of(config, file.path), options)
        spans += split_evenly(file, len(entries), UNIT_IMAGES)
    return pack(spans, UNIT_IMAGES)


def read_images(
    unit: Unit, config: SourceConfig, options: StorageOptions | None, max_bytes: int, parse: Parse
) -> Iterator[Record]:
    """One record per image of a unit, in order, with all its captions.

    Raises:
        DamagedInput: a file is not what it was when the plan was made.
        OSError: storage trouble with the JSON file itself.
    """
    positions = count()
    pieces = (partial(_wanted, part, config, options, parse, positions) for part in unit.slices)
    rows = (row for row in read_past_damage(pieces) if unit.wants(row.record.position))
    return fetch_ahead(rows, options, max_bytes)


def _wanted(
    part: Slice, config: SourceConfig, options: StorageOptions | None, parse: Parse, positions: Iterator[int]
) -> Iterator[Wanted]:
    name = bare_name(part.path)
    try:
        entries = _entries(part, config, options, parse)
    except ValueError as error:
        raise DamagedInput(name, str(error)) from None
    if part.last is not None and part.last > len(entries):
        raise DamagedInput(name, f"must have {part.last:,} images as planned, found {len(entries):,}")
    places = places_of(config, part.path)
    for entry in entries[part.first or 0 : part.last]:
        yield Wanted(_record(entry, name, next(positions)), str(entry.name), places)


def _record(entry: Entry, file: str, position: int) -> Record:
    texts = Texts()
    for caption in entry.captions:
        texts.add_captions(caption)
    if not entry.captions:
        texts.note("missing")
    texts.metadata = metadata_of(entry.metadata)
    problem: Problem | None = None
    if not isinstance(entry.name, str) or not entry.name.strip():
        problem = ("read", "malformed", "the image has no file name")
    return Record(position, f"{file}#{entry.place}", entry.id, None, problem=problem, **texts.as_fields())


def _entries(file: Slice, config: SourceConfig, options: StorageOptions | None, parse: Parse) -> list[Entry]:
    key = (file.path, file.size, file.version, config.format, config.split)
    with _LOCK:  # several threads want the same file at once
        if key not in _PARSED:
            _PARSED[key] = parse(_load(file, options), config)
            while len(_PARSED) > KEPT:
                _PARSED.popitem(last=False)
        return _PARSED[key]


def _load(file: Slice, options: StorageOptions | None) -> dict[str, Any]:
    if file.size > MAX_BYTES:
        raise ValueError(f"must have at most {MAX_BYTES:,} bytes, found {file.size:,}. Split it.")
    data = read_whole(file, options)
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES:,} bytes")
        value = json.loads(data)
    except (ValueError, RecursionError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"must be JSON, found: {error or type(error).__name__}.") from None
    if not isinstance(value, dict) or not isinstance(value.get("images"), list):
        found = f"keys {', '.join(map(repr, list(value)[:20]))}" if isinstance(value, dict) else "no object"
        raise ValueError(f"must be an object with a list `images`, found {found}.")
    return value


def id_text(value: Any) -> str | None:
    """An id that is text or an integer, as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None
