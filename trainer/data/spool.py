"""The images and captions of a store as memory-mapped columns, written once for every run to come.

Each layer is a folder of its own, so that what did not change is not written again: here the images with
their captions (one folder per store content); in `captions.py` which captions and in `rows.py` which images are
trained on; in `spool_text.py` the tokens (one folder per tokenizer, templates and length) and the features of a
frozen text backbone.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas.digests import sha256_json
from schemas.store import ImagesFolder
from trainer.data.columns import Columns, ColumnWriter, open_columns, open_or_build
from trainer.data.pieces import Piece, Pieces, built_in_pieces
from trainer.data.progress import Progress
from trainer.data.spool_part import Source, first_slots, image_columns, spool_part
from trainer.data.spool_worker import spool_parts, usable_cores

# Raised when a change here makes old folders mean something else.
LAYOUT = 2
# Below this much to read, starting processes takes longer than they save.
_WORTH_WORKERS = 64 << 20
# Captions and ids are estimated from their compressed size.
_TEXT_GROWS = 4


def default_spool_dir() -> Path:
    """`$XDG_CACHE_HOME/lit-precompute`, or `~/.cache/lit-precompute`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit-precompute"


def images_bytes(images: ImagesFolder) -> int:
    """About how many bytes the columns of a folder of images take."""
    in_place = sum(
        int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        for dtype, shape in image_columns(images).values()
    )
    slots = int(first_slots(images)[-1])
    return in_place + 64 * slots + _TEXT_GROWS * sum(part.bytes for part in images.pairs.parts)


def spool_images(images: ImagesFolder, source: Source, root: Path, workers: int | None = None) -> Columns:
    """Lay out embeddings, ids, captions and keys of every image that has a usable caption.

    N slots, one for each image that has a vector; of those that are not used the slot is a hole without a
    caption. M usable captions.

    Args:
        images: an opened folder of a store.
        source: where it was opened.
        root: where spools lie.
        workers: processes that read parts; None: one a core where there is enough to read.

    Returns:
        Columns `embeddings` float16 or float32 [N, V, D] (raw), `image_key` uint64 [N], `caption_offsets`
        int64 [N + 1], `caption_key` uint64 [M], `caption_kind` and `caption_lang` int32 [M] (places in the facts
        `kinds` and `langs`), and captions and ids as UTF-8 (see `texts`).

    Raises:
        ValueError: the disk is too small, a part is missing or damaged, or no image has a caption.
    """
    manifest = images.manifest
    label = f"spooling images of {source.store}"
    slots = first_slots(images)

    def write(pieces: Pieces, missing: list[int]) -> None:
        images.check()
        progress = Progress(label, int(slots[-1]))
        progress.skip(int(slots[-1]) - sum(int(slots[n + 1] - slots[n]) for n in missing))

        def done(number: int) -> None:
            progress.add(int(slots[number + 1] - slots[number]))

        processes = workers or _worth(images, source, missing)
        if processes > 1:
            spool_parts(source, pieces, missing, min(processes, len(missing)), done)
        else:
            for number in missing:
                spool_part(images, number, int(slots[number]), pieces)
                done(number)
        progress.finish()

    def join(pieces: Pieces, writer: ColumnWriter) -> dict[str, Any]:
        facts = _join_pieces(pieces, len(images.parts), writer)
        if facts["images"] == 0:
            raise ValueError(
                f"{source.store}: at least one image must have a caption to train on, found none among"
                f" {int(slots[-1]):,} images. Embed with the right --caption-column."
            )
        return {"content_id": manifest.content_id, "space_id": manifest.space_id, **facts}

    build = built_in_pieces(image_columns(images), len(images.parts), write, join)
    return open_or_build(root, _name(images), build, images_bytes(images), label)


def is_spooled(images: ImagesFolder, root: Path) -> bool:
    """Whether `spool_images` has nothing left to do."""
    return open_columns(root / _name(images)) is not None


def _name(images: ImagesFolder) -> str:
    return f"images-{sha256_json([LAYOUT, images.manifest.content_id, images.manifest.space_id])[:16]}"


def texts(images: Columns, kind: str, items: np.ndarray) -> list[str]:
    """Captions or ids as they were written.

    Args:
        images: as `spool_images` gives them.
        kind: "caption" or "id".
        items: int64 [n], captions or slots.
    """
    # The bytes of item i lie between offsets i and i + 1.
    data, offsets = images[f"{kind}_text"], images[f"{kind}_text_offsets"]
    return [data[offsets[item] : offsets[item + 1]].tobytes().decode() for item in items]


def _worth(images: ImagesFolder, source: Source, missing: Sequence[int]) -> int:
    """How many processes the missing parts are worth."""
    if source.store.startswith("memory://"):  # which another process can not see
        return 1
    enough = sum(images.parts[number].bytes for number in missing) >= _WORTH_WORKERS
    return usable_cores() if enough else 1


def _join_pieces(pieces: Pieces, count: int, writer: ColumnWriter) -> dict[str, Any]:
    """Append what the pieces hold, part by part; return the counts."""
    # An offsets column has one entry more than there are items: it begins with 0.
    ends = dict.fromkeys(("caption_offsets", "caption_text_offsets", "id_text_offsets"), 0)
    for name in ends:
        writer.append(name, np.zeros(1, np.int64))
    kinds: dict[str, int] = {}
    langs: dict[str, int] = {}
    seen = kept = 0
    for number in range(count):
        piece = pieces.read(number)
        for name, lengths in (
            ("caption_offsets", "caption_counts"),
            ("caption_text_offsets", "caption_text_lengths"),
            ("id_text_offsets", "id_text_lengths"),
        ):
            writer.append(name, ends[name] + np.cumsum(piece.columns[lengths]))
            ends[name] += int(piece.columns[lengths].sum())
        for name in ("caption_key", "caption_text", "id_text"):
            writer.append(name, piece.columns[name])
        writer.append("caption_kind", _renumbered(piece, "caption_kind", "kinds", kinds))
        writer.append("caption_lang", _renumbered(piece, "caption_lang", "langs", langs))
        seen, kept = seen + piece.facts["seen"], kept + piece.facts["kept"]
    return {
        "images": kept,
        "captions": ends["caption_offsets"],
        "without_caption": seen - kept,
        "kinds": list(kinds),
        "langs": list(langs),
    }


def _renumbered(piece: Piece, column: str, fact: str, known: dict[str, int]) -> np.ndarray:
    """A piece's places in its own list of words as places in the list of all, which grows."""
    places = [known.setdefault(word, len(known)) for word in piece.facts[fact]]
    return np.array([*places, 0], np.int32)[
        piece.columns[column]
    ]  # one more, lest there be none to choose from


def digest_key(images: Columns) -> list[Any]:
    """What the digests of all further layers begin with."""
    return [LAYOUT, images.facts["content_id"], images.facts["space_id"]]
