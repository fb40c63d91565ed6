"""Recall@1 within a batch: how often a row's best match is its own."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from trainer.duplicates import Duplicates, Keys, check_keys
from trainer.tiles import Block, Run, Settings, Tile, sweep

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

    Returns:
        {"i2t": float32 [], "t2i": float32 []}, without gradient.

    Raises:
        ValueError: for keys that are missing or of another shape.
    """
    size = image_embeddings.shape[0]
    mode = check_keys(duplicates, size, image_keys, caption_keys)
    settings = Settings("softmax", mode, min(tile, size), precision)
    keys = Keys(jnp.arange(size, dtype=jnp.int32), image_keys, caption_keys)
    images, texts = jax.lax.stop_gradient((Run(image_embeddings, keys), Run(text_embeddings, keys)))
    unknown = (jnp.full(size, -jnp.inf, jnp.float32), jnp.zeros(size, jnp.float32))
    zero = jnp.zeros((), jnp.float32)
    rows, columns = sweep(settings, images, texts, zero, zero, unknown, unknown, _visit)
    return {"i2t": jnp.mean(rows[1]), "t2i": jnp.mean(columns[1])}


def _visit(image: Block, text: Block, tile: Tile, rows: Any, columns: Any) -> tuple[Any, Any]:
    return _better(rows, tile, 1), _better(columns, tile, 0)


def _better(best: tuple[Array, Array], tile: Tile, axis: int) -> tuple[Array, Array]:
    """(the best logit so far, 1 where it belongs to a positive), with one more tile considered."""
    value, hit = best
    logits = jnp.where(tile.relation.keep, tile.logits, -jnp.inf)
    place = jnp.expand_dims(jnp.argmax(logits, axis=axis), axis)
    found = jnp.take_along_axis(logits, place, axis).squeeze(axis)
    right = jnp.take_along_axis(tile.relation.target, place, axis).squeeze(axis)
    return jnp.maximum(value, found), jnp.where(found > value, right.astype(jnp.float32), hit)
