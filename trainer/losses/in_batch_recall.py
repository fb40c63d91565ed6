"""Recall@1 within a batch: how often a row's best match is its own."""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from trainer.devices.mesh import DATA, check_rows, on_each
from trainer.devices.ring import go_round
from trainer.losses.duplicates import Duplicates, Keys, check_keys
from trainer.losses.tiles import Block, Run, Settings, Tile, sweep

LARGEST_TILE = 1024


def in_batch_recall(
    image_embeddings: Array,
    text_embeddings: Array,
    *,
    image_keys: Array | None = None,
    caption_keys: Array | None = None,
    duplicates: Duplicates = "ignore",
    tile: int = LARGEST_TILE,
    precision: str = "highest",
    mesh: Mesh | None = None,
) -> dict[str, Array]:
    """The share of images whose best text is theirs, and of texts whose best image is theirs.

    Ties go to the first index, as in the reference. Masked duplicates cannot be chosen; positive ones count as right.
    No array is larger than a tile, so this costs a quarter of the tiled loss's products and no memory.

    Args:
        image_embeddings: any float dtype [B, D], not normalised; row i pairs with text row i.
        text_embeddings: any float dtype [B, D], not normalised.
        image_keys: uint32 [B, 2] or None, as for the loss.
        caption_keys: uint32 [B, 2] or None.
        duplicates: "mask", "positive" or "ignore".
        tile: the largest side of a tile.
        precision: of the matrix products.
        mesh: the devices that the rows lie along, or None for one.

    Returns:
        {"i2t": float32 [], "t2i": float32 []}, without gradient.

    Raises:
        ValueError: for keys that are missing or of another shape, or rows that the devices cannot share evenly.
    """
    size = image_embeddings.shape[0]
    mode = check_keys(duplicates, size, image_keys, caption_keys)
    keys = Keys(jnp.arange(size, dtype=jnp.int32), image_keys, caption_keys)
    image, text = lax.stop_gradient((Run(image_embeddings, keys), Run(text_embeddings, keys)))
    if mesh is None:
        images, texts = _sweep(
            Settings("softmax", mode, min(tile, size), precision), image, text, *_unknown(size)
        )
        return {"i2t": jnp.mean(images.hit), "t2i": jnp.mean(texts.hit)}
    check_rows(mesh, size)
    settings = Settings("softmax", mode, min(tile, size // mesh.shape[DATA]), precision)
    hits = on_each(mesh, partial(_count_over_devices, settings), P(DATA), P())(image, text)
    return {"i2t": hits[0] / size, "t2i": hits[1] / size}


class Best(NamedTuple):
    """Of n rows, or columns, the best partner so far.

    logit: float32 [n]. place: int32 [n], where it stands in the batch. hit: float32 [n], 1 where it is a positive.
    """

    logit: Array
    place: Array
    hit: Array


def _unknown(size: int) -> tuple[Best, Best]:
    nobody = Best(
        jnp.full(size, -jnp.inf, jnp.float32),
        jnp.full(size, jnp.iinfo(jnp.int32).max, jnp.int32),
        jnp.zeros(size, jnp.float32),
    )
    return nobody, nobody


def _count_over_devices(settings: Settings, images: Run, texts: Run) -> tuple[Array, Array]:
    """How many images, and texts, of all devices chose right."""

    def meet(guest: Run, rows: Best, columns: Best) -> tuple[Best, Best]:
        return _sweep(settings, images, guest, rows, columns)

    found = go_round(DATA, texts, *_unknown(images.embeddings.shape[0]), meet)
    return lax.psum(jnp.sum(found[0].hit), DATA), lax.psum(jnp.sum(found[1].hit), DATA)


def _sweep(settings: Settings, images: Run, texts: Run, rows: Best, columns: Best) -> tuple[Best, Best]:
    zero = jnp.zeros((), jnp.float32)
    return sweep(settings, images, texts, zero, zero, rows, columns, _visit)


def _visit(image: Block, text: Block, tile: Tile, rows: Best, columns: Best) -> tuple[Any, Any]:
    return _better(rows, tile, text.keys.place, 1), _better(columns, tile, image.keys.place, 0)


def _better(best: Best, tile: Tile, places: Array, axis: int) -> Best:
    """The best after one more tile, whose partners stand at `places`; tiles may come in any order."""
    logits = jnp.where(tile.relation.keep, tile.logits, -jnp.inf)
    chosen = jnp.argmax(logits, axis=axis)
    along = jnp.expand_dims(chosen, axis)
    logit = jnp.take_along_axis(logits, along, axis).squeeze(axis)
    hit = jnp.take_along_axis(tile.relation.target, along, axis).squeeze(axis)
    place = places[chosen]
    better = (logit > best.logit) | ((logit == best.logit) & (place < best.place))
    return Best(
        jnp.where(better, logit, best.logit),
        jnp.where(better, place, best.place),
        jnp.where(better, hit.astype(jnp.float32), best.hit),
    )
