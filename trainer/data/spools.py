"""What the batches of a run are gathered from: of each store its columns, and which of their rows are trained on."""

import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.config import DataConfig
from trainer.data.captions import UNTOLD, Captions, Draw, select_captions, speaks
from trainer.data.columns import Columns, check_free_space
from trainer.data.rows import Rows, take_rows, training_rows
from trainer.data.spool import images_bytes, is_spooled, spool_images, texts
from trainer.data.spool_text import caption_texts, fill
from trainer.data.stores import OpenedStore

_CHUNK = 8192


@dataclass(frozen=True)
class Spool:
    """One store, as batches are gathered from it.

    T templates (1 without any); m chosen captions.

    Attributes:
        name: of the store, for messages.
        images: as `spool_images` gives them.
        captions: those that are trained on.
        draw: how an image's captions are drawn.
        rows: int64 [R], the slots of the images that are trained on.
        text: [m * T, ...], row `caption * T + template`: tokens int32 [m * T, L], or for a frozen backbone its
            features float32 [m * T, H]. Empty until they are known.
        num_templates: T.
    """

    name: str
    images: Columns
    captions: Captions
    draw: Draw
    rows: Rows
    text: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.int32))
    num_templates: int = 1

    def ids(self, rows: np.ndarray) -> list[str]:
        """The ids of training rows int64 [B]."""
        return texts(self.images, "id", take_rows(self.rows, rows))

    def training_texts(self, templates: Sequence[str]) -> Iterator[str]:
        """All chosen captions of the images that are trained on, each set into one template in turn."""
        groups = len(self.captions.groups)
        for start in range(0, len(self.rows), _CHUNK):
            slots = take_rows(self.rows, np.arange(start, min(start + _CHUNK, len(self.rows))))
            firsts, ends = (self.captions.offsets[slots * groups + side * groups] for side in (0, 1))
            chosen = np.concatenate([np.arange(a, b) for a, b in zip(firsts, ends, strict=True)])
            captions = caption_texts(self.images, self.captions, chosen)
            for place, caption in zip(chosen, captions, strict=True):
                yield fill(templates[place % len(templates)], caption)


def spool_stores(
    stores: Sequence[OpenedStore],
    data: DataConfig,
    root: Path,
    text_bytes: int = 0,
    apart: np.ndarray | None = None,
) -> list[Spool]:
    """Spool the images and captions of every store, and choose what is trained on.

    Args:
        stores: as `open_stores` gives them.
        data: what is chosen.
        root: where spools lie.
        text_bytes: what each caption will take later on the same disk.
        apart: uint64 [n], ascending: keys of images that may not be trained on.

    Raises:
        ValueError: the disk is too small for all of them, a part is missing or damaged, or a store has nothing
            to train on.
    """
    missing = [store for store in stores if not is_spooled(store.images, root)]
    root.mkdir(parents=True, exist_ok=True)
    need = sum(images_bytes(store.images) + text_bytes * _captions(store) for store in missing)
    check_free_space(root, need, "the images and captions of all stores")
    spooled = [spool_images(store.images, store.source, root, data.spool_workers) for store in stores]
    _refuse_unknown("caption_kinds", data.caption_kinds, _names("kinds", spooled), operator.eq)
    _refuse_unknown(
        "caption_langs", data.caption_langs, _names("langs", spooled), lambda n, w: speaks(n, [w])
    )
    spools = []
    for store, images in zip(stores, spooled, strict=True):
        captions = select_captions(images, data.caption_kinds, data.caption_langs, data.caption_draw, root)
        rows = training_rows(images, captions, data.holdout_fraction, data.holdout_by, root, apart)
        if not len(rows):
            raise ValueError(
                f"{store.source.store}: at least one image must be left to train on, found none of"
                f" {images.facts['images']:,} with captions. Look at --caption-kinds, --caption-langs and the hold-out."
            )
        spools.append(Spool(store.source.store, images, captions, data.caption_draw, rows))
    return spools


def _captions(store: OpenedStore) -> int:
    """About how many captions a store has, before it was read."""
    return int(store.images.pairs.manifest.counts.get("captions", store.images.manifest.counts["embedded"]))


def mixed_ids(spools: Sequence[Spool], rows: Sequence[np.ndarray]) -> list[str]:
    """The ids of a batch; of several stores each with its store before it."""
    if len(spools) == 1:
        return spools[0].ids(rows[0])
    return [f"{spool.name}: {id}" for spool, some in zip(spools, rows, strict=True) for id in spool.ids(some)]


def _names(fact: str, spooled: Sequence[Columns]) -> list[str]:
    return sorted({name or UNTOLD for images in spooled for name in images.facts[fact]})


def _refuse_unknown(
    flag: str, wanted: Sequence[str], known: Sequence[str], fits: Callable[[str, str], bool]
) -> None:
    if unknown := [one for one in wanted if not any(fits(name, one) for name in known)]:
        raise ValueError(
            f"{flag}: must be among those of the stores' captions, found {', '.join(unknown)}."
            f" Known: {', '.join(known)}."
        )
