"""The images and captions of a store as memory-mapped columns, written once for every run to come.

Each layer is a folder of its own, so that what did not change is not written again: here the images with
their captions (one folder per store content) and the rows left by a hold-out; in `spool_text.py` the tokens
(one per tokenizer, templates and length) and the features of a frozen text backbone.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.digests import caption_key, image_keys, sha256_json
from schemas.store import ImagesFolder, JoinedPart
from trainer.data.columns import Columns, ColumnWriter, open_or_build
from trainer.data.holdout import held_out
from trainer.data.progress import Progress

# Raised when a change here makes old folders mean something else.
LAYOUT = 1


def default_spool_dir() -> Path:
    """`$XDG_CACHE_HOME/lit-precompute`, or `~/.cache/lit-precompute`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit-precompute"


@dataclass(frozen=True)
class Spool:
    """Everything a batch is gathered from.

    N images have a usable caption; M captions; T templates (1 without any).

    Attributes:
        images: columns `embeddings` float16 or float32 [N, V, D] (raw), `image_key` uint64 [N],
            `caption_offsets` int64 [N + 1], `caption_key` uint64 [M], and the ids and captions as UTF-8.
        rows: int64 [R], the images that are trained on; the others are held out.
        text: [M * T, ...], row `caption * T + template`: tokens int32 [M * T, L], or for a frozen
            backbone its features float32 [M * T, H].
        num_templates: T.
    """

    images: Columns
    rows: np.ndarray
    text: np.ndarray
    num_templates: int

    def ids(self, rows: np.ndarray) -> list[str]:
        """The ids of training rows int64 [B]."""
        return texts(self.images, "id", self.rows[rows])


def spool_images(images: ImagesFolder, root: Path) -> Columns:
    """Lay out embeddings, ids, captions and keys of every image that has a usable caption.

    Args:
        images: an opened folder of a store.
        root: where spools lie.

    Raises:
        ValueError: the disk is too small, a part is damaged, or no image has a caption.
    """
    manifest = images.manifest
    digest = sha256_json([LAYOUT, manifest.content_id, manifest.space_id])
    embedded = manifest.counts["embedded"]
    row_bytes = manifest.views * manifest.embedding_dim * np.dtype(manifest.dtype).itemsize + 200

    def build(writer: ColumnWriter) -> dict[str, Any]:
        images.check()
        progress = Progress("spooling images", embedded)
        seen = kept = captions = 0
        # An offsets column has one entry more than there are items: it begins with 0.
        for name in ("caption_offsets", "caption_text_offsets", "id_text_offsets"):
            writer.append(name, np.zeros(1, np.int64))
        ends = {"caption": 0, "id": 0}
        for part in images.iter_joined(columns=("captions",)):
            usable = [_usable(row) for row in part.pairs.column("captions").to_pylist()]
            captions += _append_part(writer, part, usable, captions, ends)
            seen, kept = seen + len(usable), kept + sum(map(bool, usable))
            progress.add(len(usable))
        progress.finish()
        if kept == 0:
            raise ValueError(
                f"{images.manifest.tower_id}: at least one image must have a caption to train on, found none"
                f" among {seen:,} images. Embed with the right --caption-column."
            )
        return {
            "content_id": manifest.content_id,
            "space_id": manifest.space_id,
            "images": kept,
            "captions": captions,
            "without_caption": seen - kept,
        }

    return open_or_build(root, f"images-{digest[:16]}", build, embedded * row_bytes)


def training_rows(images: Columns, fraction: float, by: str, root: Path) -> np.ndarray:
    """The images left after holding out a fraction of them.

    Args:
        images: as `spool_images` gives them.
        fraction: share held out, 0 <= fraction < 1.
        by: "caption" (all images whose first caption reads the same go together) or "image".
        root: where spools lie.

    Returns:
        int64 [R], ascending.
    """
    digest = sha256_json([LAYOUT, images.facts["content_id"], images.facts["space_id"], fraction, by])
    num_images = len(images["image_key"])

    def build(writer: ColumnWriter) -> dict[str, Any]:
        for start in range(0, num_images, 1 << 20):
            chunk = slice(start, min(start + (1 << 20), num_images))
            keys = images["image_key"][chunk]
            if by == "caption":
                keys = images["caption_key"][images["caption_offsets"][chunk]]
            writer.append("rows", start + np.flatnonzero(~held_out(keys, fraction)))
        return {"holdout_fraction": fraction, "holdout_by": by}

    return open_or_build(root, f"rows-{digest[:16]}", build, num_images * 8)["rows"]


def caption_texts(images: Columns, captions: np.ndarray) -> list[str]:
    """The captions int64 [n] as they were written."""
    return texts(images, "caption", captions)


def texts(images: Columns, kind: str, items: np.ndarray) -> list[str]:
    """Decode UTF-8 items: the bytes of item i lie between offsets i and i + 1."""
    data, offsets = images[f"{kind}_text"], images[f"{kind}_text_offsets"]
    return [data[offsets[item] : offsets[item + 1]].tobytes().decode() for item in items]


def _usable(captions: list[dict[str, Any]] | None) -> list[str]:
    return [c["text"] for c in captions or () if c["text"] is not None and c["text"].strip()]


def _append_part(
    writer: ColumnWriter, part: JoinedPart, usable: list[list[str]], captions: int, ends: dict[str, int]
) -> int:
    """Append the images of one part that have usable captions; return how many captions that were."""
    kept = np.array([i for i, found in enumerate(usable) if found], np.int64)
    whole = len(kept) == len(usable)
    writer.append("embeddings", part.embeddings if whole else part.embeddings[kept])
    writer.append("image_key", image_keys(part.image_sha256[kept]))
    counts = np.array([len(usable[i]) for i in kept], np.int64)
    writer.append("caption_offsets", captions + np.cumsum(counts))
    flat = [caption for found in usable for caption in found]
    writer.append("caption_key", np.array([caption_key(caption) for caption in flat], np.uint64))
    _append_texts(writer, "caption", flat, ends)
    _append_texts(writer, "id", part.ids.take(pa.array(kept)).to_pylist(), ends)
    return len(flat)


def _append_texts(writer: ColumnWriter, kind: str, items: list[str], ends: dict[str, int]) -> None:
    encoded = [item.encode() for item in items]
    lengths = np.array([len(item) for item in encoded], np.int64)
    writer.append(f"{kind}_text", np.frombuffer(b"".join(encoded), np.uint8))
    writer.append(f"{kind}_text_offsets", ends[kind] + np.cumsum(lengths))
    ends[kind] += int(lengths.sum())
