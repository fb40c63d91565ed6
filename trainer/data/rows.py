"""Which images of a store are trained on: those that have a caption and are not kept out."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.digests import image_keys, sha256_json
from trainer.data.captions import Captions
from trainer.data.columns import Columns, ColumnWriter, built_at_once, open_or_build
from trainer.data.holdout import held_out
from trainer.data.stores import OpenedStore

_CHUNK = 1 << 18

Rows = np.ndarray | range  # slots int64 [R], ascending; a range where all are trained on


def training_rows(
    images: Columns, captions: Captions, fraction: float, by: str, root: Path, apart: np.ndarray | None = None
) -> Rows:
    """The slots of the images that are trained on.

    Args:
        images: as `spool_images` gives them.
        captions: as `select_captions` gives them.
        fraction: share held out, 0 <= fraction < 1.
        by: "caption" (all images whose first caption, of whatever kind, reads the same go together) or "image".
        root: where spools lie.
        apart: uint64 [n], ascending: keys of images that may not be trained on, such as those of a validation store.
    """
    num_slots, groups = len(images["image_key"]), len(captions.groups)
    apart = np.zeros(0, np.uint64) if apart is None else apart
    if captions.index is None and fraction == 0 and not len(apart) and images.facts["images"] == num_slots:
        return range(num_slots)
    digest = sha256_json([captions.digest, fraction, by, hashlib.sha256(apart.tobytes()).hexdigest()])

    def build(writer: ColumnWriter) -> dict[str, Any]:
        with_caption = 0
        for start in range(0, num_slots, _CHUNK):
            end = min(start + _CHUNK, num_slots)
            has = np.diff(captions.offsets[start * groups : end * groups + 1 : groups]) > 0
            slots = start + np.flatnonzero(has)
            keys = images["image_key"][slots]
            kept = ~np.isin(keys, apart)
            decided = images["caption_key"][images["caption_offsets"][slots]] if by == "caption" else keys
            writer.append("rows", slots[kept & ~held_out(decided, fraction)])
            with_caption += len(slots)
        return {"with_caption": with_caption}

    return open_or_build(root, f"rows-{digest[:16]}", built_at_once(build), num_slots * 8)["rows"]


def take_rows(rows: Rows, places: np.ndarray) -> np.ndarray:
    """The slots at places int64 [B] of the rows: int64 [B]."""
    return places + rows.start if isinstance(rows, range) else np.take(rows, places)


def keys_of(stores: Sequence[OpenedStore]) -> np.ndarray:
    """The keys of all images of some stores: uint64 [n], ascending."""
    found = [
        image_keys(_digests(store.images.folder.read_column(part.name, "image_sha256")))
        for store in stores
        for part in store.images.parts
    ]
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *found]))


def _digests(column: pa.ChunkedArray) -> np.ndarray:
    """uint8 [n, 32]."""
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, 32)
