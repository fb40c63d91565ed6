"""Small pictures of a few images of a store, read again from the inputs that its plan names."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from PIL import Image

from lit_precompute.config import SourceConfig
from lit_precompute.decode import DecodeError, DecodeLimits, decode
from lit_precompute.plan import read_plan
from lit_precompute.records import DamagedInput
from lit_precompute.sources import SOURCES
from lit_precompute.units import Unit
from pipelines.store.meter import size_text
from pipelines.store.text import Shown
from pipelines.store.thumbnail_file import MOST_BYTES
from schemas.storage import StorageOptions
from schemas.store import Store

SIDE = 96  # pixels
LIMITS = DecodeLimits(max_pixels=50_000_000, max_bytes=32 << 20)


def read_thumbnails(
    store: Store,
    wanted: Sequence[Shown],
    options: StorageOptions | None = None,
    max_bytes: int | None = None,
) -> tuple[dict[tuple[str, str], bytes], str]:
    """Thumbnails of images whose input is still there and still the same.

    Units are read from their start until the last wanted image of them; those that would take more input than
    is allowed in all are left out. Whatever can not be had is left out too: the note says how many there are.

    Args:
        store: its plan names the inputs.
        wanted: which images.
        options: fsspec options by protocol.
        max_bytes: of input to read; 256 MiB unless given.

    Returns:
        JPEGs by (unit, id), and a note such as "9 of 12 images; 3 would need 1.2 GB of input".
    """
    by_unit: dict[str, dict[str, bytes]] = {}
    for one in wanted:
        by_unit.setdefault(one.unit, {})[one.id] = one.image_sha256
    try:
        plan = read_plan(store.folder, by_unit.keys())
        config = _source_config(plan.source, plan.root)
    except (ValueError, TypeError, KeyError) as error:
        return {}, f"none: the plan can not be read ({error})"
    found: dict[tuple[str, str], bytes] = {}
    budget, heavy, troubles = MOST_BYTES if max_bytes is None else max_bytes, 0, []
    for unit in sorted(plan.units, key=lambda unit: _size(unit)):
        if (size := _size(unit)) > budget:
            heavy += size
            continue
        budget -= size
        try:
            for id, jpeg in _of_unit(unit, config, by_unit[unit.name], options):
                found[unit.name, id] = jpeg
        except (OSError, ValueError, DamagedInput) as error:
            troubles.append(str(error))
    note = f"{len(found):,} of {len(wanted):,} images"
    if heavy:
        note += f"; others would need {size_text(heavy)} more of input"
    if troubles:
        note += f"; {troubles[0][:200]}"
    return found, note


def _of_unit(
    unit: Unit, config: SourceConfig, wanted: dict[str, bytes], options: StorageOptions | None
) -> Iterator[tuple[str, bytes]]:
    """(id, JPEG) of the wanted images of a unit that are still what was embedded."""
    left = dict(wanted)
    for record in SOURCES[config.format].read_unit(unit, config, options, LIMITS.max_bytes):
        if record.id not in left:
            continue
        digest = left.pop(record.id)  # the first record of a unit keeps an id
        if record.image is not None and hashlib.sha256(record.image).digest() == digest:
            try:
                yield record.id, _thumbnail(record.image)
            except DecodeError:  # embedded under wider limits
                continue
        if not left:
            return


def _thumbnail(image: bytes) -> bytes:
    picture = decode(image, LIMITS)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()


def _source_config(source: Any, root: str) -> SourceConfig:
    """How the inputs are to be read, from the facts the plan keeps."""
    known = {one.name for one in fields(SourceConfig)}
    facts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in source.items()
        if name in known
    }
    return SourceConfig(**facts | {"input": (root or "plan",)})


def _size(unit: Unit) -> int:
    return sum(max(part.size, 0) for part in unit.slices)
