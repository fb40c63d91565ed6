"""Karpathy split JSON: the images of COCO, Flickr8k or Flickr30k, each with its split and sentences."""

from collections.abc import Iterator
from typing import Any

from lit_precompute.config import SourceConfig
from lit_precompute.records import Record
from lit_precompute.sources.captions_json import SUFFIXES, Entry, id_text, list_units, read_images
from lit_precompute.sources.listing import Listing
from lit_precompute.units import Slice, Unit
from schemas.storage import StorageOptions

__all__ = ["SUFFIXES", "list_slices", "read_unit"]


def list_slices(
    listing: Listing, config: SourceConfig, unit_bytes: int, options: StorageOptions | None = None
) -> list[tuple[Slice, ...]]:
    """Units of at most 2,048 images of the split. Raises ValueError when a file is not of this kind or lacks it."""
    return list_units(listing, config, options, parse)


def read_unit(
    unit: Unit, config: SourceConfig, options: StorageOptions | None = None, max_bytes: int = 64 << 20
) -> Iterator[Record]:
    """One record per image of a unit.

    The id is `cocoid`, or where there is none the file name without its suffix; the image is `filepath/filename` below
    the image root; captions are the `raw` texts of `sentences`, in order; metadata is the file name and the split.

    Raises:
        DamagedInput, OSError: as `captions_json.read_images`.
    """
    return read_images(unit, config, options, max_bytes, parse)


def parse(data: dict[str, Any], config: SourceConfig) -> list[Entry]:
    """The images of the splits asked for, in the file's order. Raises ValueError when a split is not there."""
    images = [image if isinstance(image, dict) else {} for image in data["images"]]
    known = {split for image in images if isinstance(split := image.get("split"), str)}
    wanted = {split.strip() for split in (config.split or "").split("+")}
    if lacking := wanted - known:
        raise ValueError(
            f"--split: must be of {', '.join(sorted(known)) or 'none'}, found {', '.join(sorted(lacking))}."
        )
    return [
        _entry(place, image)
        for place, image in enumerate(images)
        if isinstance(split := image.get("split"), str) and split in wanted
    ]


def _entry(place: int, image: dict[str, Any]) -> Entry:
    name = image.get("filename")
    stem = name.rpartition(".")[0] or name if isinstance(name, str) else None
    folder = image.get("filepath")
    path = f"{folder}/{name}" if isinstance(folder, str) and folder and isinstance(name, str) else name
    sentences = image.get("sentences")
    captions = tuple(
        sentence.get("raw") if isinstance(sentence, dict) else None
        for sentence in (sentences if isinstance(sentences, list) else ())
    )
    id = id_text(image.get("cocoid"))
    return Entry(
        place, stem if id is None else id, path, captions, {"filename": name, "split": image["split"]}
    )
