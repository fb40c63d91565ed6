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


def keep_and_target(rows: Keys, columns: Keys, duplicates: Duplicates) -> tuple[Array, Array]:
    """Says of every pair whether it takes part in the loss, and whether it is a positive.

    Args:
        rows: the R pairs whose images stand in rows.
        columns: the C pairs whose captions stand in columns.
        duplicates: "mask", "positive" or "ignore".

    Returns:
        keep bool [R, C] and target bool [R, C]; a target is always kept.
    """
    diagonal = rows.place[:, None] == columns.place[None, :]
    keep = jnp.ones_like(diagonal)
    if duplicates == "ignore":
        return keep, diagonal
    same = jnp.zeros_like(diagonal)
    if rows.image is not None and columns.image is not None:
        same |= same_key(rows.image, columns.image)
    if rows.caption is not None and columns.caption is not None:
        same |= same_key(rows.caption, columns.caption)
    if duplicates == "mask":
        return diagonal | ~same, diagonal
    return keep, diagonal | same


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
