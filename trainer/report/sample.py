"""A few thousand images of a store, the same ones on every machine, with all that a report shows of them."""

import copy
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from schemas.digests import caption_key, key64
from schemas.store import ImagesFolder
from trainer.evals.selection import SelectedPart, Selection, stored_embeddings, usable_captions
from trainer.evals.vectors import unit_vectors

MOST_PARTS = 16  # of a large store: a report should not read a whole one


@dataclass(frozen=True)
class Sample:
    """N images in the order of a hash of their ids.

    Attributes:
        ids, units: N of each; the unit says where the image was read from.
        image_sha256: N digests of the encoded images, 32 bytes each.
        image_keys, caption_keys: uint64 [N]; equal for equal images, and for equal first captions (0 without one).
        captions: usable captions of each image, possibly none.
        embeddings: float32 [N, D], unit rows.
        norms: float32 [N], of the vectors as stored.
        looked_at: images the sample was drawn from.
        parts, all_parts: parts read, and parts there are.
    """

    ids: list[str]
    units: list[str]
    image_sha256: list[bytes]
    image_keys: np.ndarray
    caption_keys: np.ndarray
    captions: list[list[str]]
    embeddings: np.ndarray
    norms: np.ndarray
    looked_at: int
    parts: int
    all_parts: int

    def captioned(self) -> "Sample":
        """Those that have a caption."""
        return self._take([row for row, captions in enumerate(self.captions) if captions])

    def same(self, row: int, others: np.ndarray) -> np.ndarray:
        """bool [n]: which of the rows `others` are the row itself, its image again, or of the same caption."""
        return (self.image_keys[others] == self.image_keys[row]) | (
            (self.caption_keys[others] == self.caption_keys[row]) & (self.caption_keys[row] != 0)
        )

    def _take(self, rows: list[int]) -> "Sample":
        return Sample(
            ids=[self.ids[row] for row in rows],
            units=[self.units[row] for row in rows],
            image_sha256=[self.image_sha256[row] for row in rows],
            image_keys=self.image_keys[rows],
            caption_keys=self.caption_keys[rows],
            captions=[self.captions[row] for row in rows],
            embeddings=self.embeddings[rows],
            norms=self.norms[rows],
            looked_at=self.looked_at,
            parts=self.parts,
            all_parts=self.all_parts,
        )


def draw_sample(images: ImagesFolder, selection: Selection, size: int) -> Sample:
    """The images of the selection whose ids hash lowest, from at most 16 parts evenly spread over the store.

    Args:
        images: an opened tower of a store.
        selection: the rule by which images are chosen.
        size: N, at most.

    Raises:
        ValueError: no image fits the selection.
    """
    some = copy.copy(images)
    some.parts = _spread(images.parts, MOST_PARTS)
    unit_of = {part.name: part.unit for part in some.parts}
    kept: Sample | None = None
    for part in stored_embeddings(some, selection):
        found = _of_part(part, unit_of.get(part.part, PurePosixPath(part.part).stem))
        kept = _lowest(found if kept is None else _join(kept, found), size)
    if kept is None:
        raise ValueError("a report must have at least one image, found none. Check --split.")
    return Sample(**{**vars(kept), "parts": len(some.parts), "all_parts": len(images.parts)})


def _spread(parts: list, most: int) -> list:
    """At most so many of them, evenly spread."""
    if len(parts) <= most:
        return parts
    return [parts[round(place)] for place in np.linspace(0, len(parts) - 1, most)]


def _of_part(part: SelectedPart, unit: str) -> Sample:
    captions = usable_captions(part.pairs)
    embeddings = np.asarray(part.embeddings, dtype=np.float32)
    return Sample(
        ids=list(part.ids),
        units=[unit] * len(part.ids),
        image_sha256=[digest.tobytes() for digest in part.image_sha256],
        image_keys=part.image_keys,
        caption_keys=np.array([caption_key(one[0]) if one else 0 for one in captions], dtype=np.uint64),
        captions=captions,
        embeddings=unit_vectors(embeddings, "stored image embeddings"),
        norms=np.linalg.norm(embeddings, axis=1),
        looked_at=len(part.ids),
        parts=0,
        all_parts=0,
    )


def _lowest(sample: Sample, size: int) -> Sample:
    order = np.argsort(np.array([key64(id.encode()) for id in sample.ids], dtype=np.uint64), kind="stable")
    return sample._take(order[:size].tolist())


def _join(first: Sample, second: Sample) -> Sample:
    return Sample(
        ids=first.ids + second.ids,
        units=first.units + second.units,
        image_sha256=first.image_sha256 + second.image_sha256,
        image_keys=np.concatenate([first.image_keys, second.image_keys]),
        caption_keys=np.concatenate([first.caption_keys, second.caption_keys]),
        captions=first.captions + second.captions,
        embeddings=np.concatenate([first.embeddings, second.embeddings]),
        norms=np.concatenate([first.norms, second.norms]),
        looked_at=first.looked_at + second.looked_at,
        parts=0,
        all_parts=0,
    )
