"""Which off-diagonal pairs of a batch show the same thing, so that the loss need not call them negatives.

Two pairs i and j are duplicates of each other, P_ij, where they share the image or share the caption, and i is not j.
The relation is not transitive: i ~ j through the image and j ~ k through the caption says nothing of i and k.

Three ways to treat them:

    mask      the pair leaves the row's and the column's log-sum-exp (sigmoid: its term is dropped, the sum is still
              divided by B)
    positive  the softmax target of row i is uniform over {i} and its duplicates, for columns likewise; the sigmoid
              label is +1
    ignore    duplicates are negatives like any other pair, as in the papers and the reference
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array

Duplicates = Literal["mask", "positive", "ignore"]
DUPLICATES: tuple[Duplicates, ...] = ("mask", "positive", "ignore")


class Keys(NamedTuple):
    """The identities of a run of pairs, as the loss compares them.

    place: int32 [n], the place of each pair in the global batch.
    image: uint32 [n, 2] or None, 64-bit image keys in two words, because JAX has no 64-bit integers by default.
    caption: uint32 [n, 2] or None, likewise.
    """

    place: Array
    image: Array | None
    caption: Array | None


def same_key(rows: Array, columns: Array) -> Array:
    """Compares uint32 [R, 2] with uint32 [C, 2] keys; bool [R, C]."""
    return (rows[:, None, 0] == columns[None, :, 0]) & (rows[:, None, 1] == columns[None, :, 1])


class Relation(NamedTuple):
    """What each of R x C pairs counts for, bool [R, C] each.

    own: the diagonal, an image with its own caption. keep: takes part in the loss. target: is a positive.
    Whatever is own is a target, whatever is a target is kept.
    """

    own: Array
    keep: Array
    target: Array


def relate(rows: Keys, columns: Keys, duplicates: Duplicates) -> Relation:
    """Says of every image in rows and every caption in columns what their pair counts for.

    Args:
        rows: the R pairs whose images stand in rows.
        columns: the C pairs whose captions stand in columns.
        duplicates: "mask", "positive" or "ignore".

    Returns:
        The relation of all R x C.
    """
    own = rows.place[:, None] == columns.place[None, :]
    everything = jnp.ones_like(own)
    if duplicates == "ignore":
        return Relation(own, everything, own)
    same = own
    if rows.image is not None and columns.image is not None:
        same |= same_key(rows.image, columns.image)
    if rows.caption is not None and columns.caption is not None:
        same |= same_key(rows.caption, columns.caption)
    if duplicates == "mask":
        return Relation(own, own | ~same, own)
    return Relation(own, everything, same)


def check_keys(
    duplicates: str, batch_size: int, image_keys: Array | None, caption_keys: Array | None
) -> Duplicates:
    """Checks the mode and the shapes of the keys, and returns the mode.

    Raises:
        ValueError: for an unknown mode, for keys not of shape [B, 2] and dtype uint32, or where duplicates must be
            found and neither key is given.
    """
    if duplicates not in DUPLICATES:
        raise ValueError(f"duplicates: must be one of {', '.join(DUPLICATES)}; found {duplicates!r}")
    if duplicates == "ignore":
        return duplicates
    if image_keys is None and caption_keys is None:
        raise ValueError(
            f"duplicates={duplicates!r} compares image_keys and caption_keys; neither was given. "
            'Give one, or use duplicates="ignore".'
        )
    for name, keys in (("image_keys", image_keys), ("caption_keys", caption_keys)):
        if keys is not None and (keys.shape != (batch_size, 2) or keys.dtype != jnp.uint32):
            raise ValueError(
                f"{name}: must be uint32 [{batch_size}, 2] (64-bit keys in two words); "
                f"found {keys.dtype} {list(keys.shape)}. `split_keys` makes them from uint64."
            )
    return duplicates
