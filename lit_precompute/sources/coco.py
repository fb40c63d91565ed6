"""COCO captions JSON: images and annotations in one file."""

import logging
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from lit_precompute.config import SourceConfig
from lit_precompute.records import Record
from lit_precompute.sources.captions_json import SUFFIXES, Entry, id_text, list_units, read_images
from lit_precompute.sources.listing import Listing
from lit_precompute.units import Slice, Unit
from schemas.storage import StorageOptions

log = logging.getLogger(__name__)

__all__ = ["SUFFIXES", "list_slices", "read_unit"]


def list_slices(
    listing: Listing, config: SourceConfig, unit_bytes: int, options: StorageOptions | None = None
) -> list[tuple[Slice, ...]]:
    """Units of at most 2,048 images. Raises ValueError when a file is not of this kind."""
    return list_units(listing, config, options, parse)


def read_unit(
    unit: Unit, config: SourceConfig, options: StorageOptions | None = None, max_bytes: int = 64 << 20
) -> Iterator[Record]:
    """One record per image of a unit.

    The id is `images[].id`; the image is `images[].file_name` below the image root; captions are all `caption` texts
    of the annotations with its `image_id`, in the file's order; metadata is the file name.

    Raises:
        DamagedInput, OSError: as `captions_json.read_images`.
    """
    return read_images(unit, config, options, max_bytes, parse)


def parse(data: dict[str, Any], config: SourceConfig) -> list[Entry]:
    """The images of a file, in its order. Raises ValueError when its annotations hold no captions."""
    annotations = data.get("annotations") or []
    if not isinstance(annotations, list):
        raise ValueError("`annotations` must be a list.")
    captions: dict[str | None, list[Any]] = defaultdict(list)
    for annotation in annotations:
        if isinstance(annotation, dict) and "caption" in annotation:
            captions[id_text(annotation.get("image_id"))].append(annotation["caption"])
    if annotations and not captions:
        raise ValueError(
            "`annotations` must have captions, found none. Give captions_*.json, not instances_*.json."
        )
    entries = [_entry(place, image, captions) for place, image in enumerate(data["images"])]
    if orphans := len(captions.keys() - {entry.id for entry in entries}):
        log.warning("captions of %d images that the file does not list are left out", orphans)
    return entries


def _entry(place: int, image: Any, captions: dict[str | None, list[Any]]) -> Entry:
    image = image if isinstance(image, dict) else {}
    id, name = id_text(image.get("id")), image.get("file_name")
    return Entry(place, id, name, tuple(captions.get(id, ())), {"file_name": name})
