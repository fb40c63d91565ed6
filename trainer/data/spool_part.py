"""One part of a store laid out as a piece of the spool."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.digests import image_keys
from schemas.store import ImagesFolder, open_store
from trainer.data.part_captions import part_captions
from trainer.data.pieces import Pieces


@dataclass(frozen=True)
class Source:
    """Where the parts of one folder of images are, as another process must be told it.

    Attributes:
        store: path or URL.
        tower_id: the folder of images.
        options: fsspec options by protocol.
    """

    store: str
    tower_id: str
    options: Mapping[str, Mapping[str, Any]]

    def open(self) -> ImagesFolder:
        return open_store(self.store, self.options).images(self.tower_id)

    def to_json(self) -> str:
        """One line; it may hold credentials."""
        return json.dumps(asdict(self))


def first_slots(images: ImagesFolder) -> np.ndarray:
    """int64 [parts + 1]: the slots of part i are those from element i to element i + 1.

    Each image that has a vector has a slot, also where it is not used in the end: so every part knows its
    slots before any was read.
    """
    rows = [part.rows // images.manifest.views for part in images.parts]
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(rows, dtype=np.int64)])


def image_columns(images: ImagesFolder) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of the columns that are written in place, by name: one row per slot."""
    manifest, slots = images.manifest, int(first_slots(images)[-1])
    vectors = (np.dtype(manifest.dtype).str, (slots, manifest.views, manifest.embedding_dim))
    return {"embeddings": vectors, "image_key": ("<u8", (slots,))}


def spool_part(images: ImagesFolder, number: int, first_slot: int, pieces: Pieces) -> None:
    """Verify, read and lay out one part.

    The images that are used, those with a usable caption, fill the first of the part's slots; the slots left
    over stay holes in the files.

    Args:
        images: an opened folder of a store.
        number: of the part.
        first_slot: of the part.
        pieces: where it goes.

    Raises:
        ValueError: the part is missing or damaged; it is named.
    """
    entry = images.parts[number]
    part = images.joined(entry, ("captions",), verified=True)
    captions = part_captions(part.pairs.column("captions"))
    kept = np.flatnonzero(captions.counts)
    slots = entry.rows // images.manifest.views
    counts = np.zeros(slots, np.int64)
    counts[: len(kept)] = captions.counts[kept]
    whole = len(kept) == len(captions.counts)
    pieces.write(
        number,
        {
            "embeddings": (first_slot, part.embeddings if whole else part.embeddings[kept]),
            "image_key": (first_slot, image_keys(part.image_sha256[kept])),
        },
        {
            "caption_counts": counts,
            "caption_key": captions.keys,
            "caption_kind": captions.kinds,
            "caption_lang": captions.langs,
            **_encoded("caption", captions.texts, len(captions.texts)),
            **_encoded("id", part.ids.take(pa.array(kept)).to_pylist(), slots),
        },
        {
            "seen": len(captions.counts),
            "kept": len(kept),
            "kinds": captions.kind_names,
            "langs": captions.lang_names,
        },
    )


def _encoded(kind: str, items: Sequence[str], places: int) -> dict[str, np.ndarray]:
    """Texts as their UTF-8 and the number of bytes in each of the places, 0 where there is no text."""
    encoded = [item.encode() for item in items]
    lengths = np.zeros(places, np.int64)
    lengths[: len(encoded)] = [len(item) for item in encoded]
    return {f"{kind}_text": np.frombuffer(b"".join(encoded), np.uint8), f"{kind}_text_lengths": lengths}
