"""From the hidden states of a row of tokens to one vector."""

import jax
import jax.numpy as jnp


def real_tokens(tokens: jax.Array, pad_id: int) -> jax.Array:
    """bool [B, L], False in the padding: behind the last token of a row that is not `pad_id`.

    A pad token written out inside a caption is a token like any other; only the run at the end is padding.
    """
    return jax.lax.cummax((tokens != pad_id).astype(jnp.int32), axis=1, reverse=True).astype(bool)


Place = int | jax.Array | None  # where a row's token stands that is pooled: int32 [B]; None: several are


def tokens_at(x: jax.Array, place: Place) -> jax.Array:
    """Of [B, L, ...] each row's one token, [B, 1, ...]; all where several are pooled.

    Where one token alone is pooled, the last block has keys and values to compute of the others and nothing else: a
    sixth of its products.
    """
    if place is None:
        return x
    if isinstance(place, int):
        return x[:, place : place + 1]
    return jnp.take_along_axis(x, place[:, None, None], axis=1)


def masked_mean(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean over real tokens: sum(hidden * mask) / max(sum(mask), 1e-9).

    Args:
        hidden: float32 [B, L, H].
        mask: bool [B, L].

    Returns:
        float32 [B, H]; zeros for a row without a real token.
    """
    weight = mask.astype(hidden.dtype)[:, :, None]
    return (hidden * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1e-9)


POOLS = ("mean", "cls")


def place_of(pool: str) -> int | None:
    """The place of the one token that is pooled."""
    return 0 if pool == "cls" else None


def check_pool(pool: str) -> None:
    """Raises ValueError, listing the known ones, for another way to pool."""
    if pool not in POOLS:
        raise ValueError(f"text_pool: this tower pools by one of {list(POOLS)}, found {pool!r}.")


def pooled(hidden: jax.Array, mask: jax.Array, pool: str) -> jax.Array:
    """The first token's state, or the mean over real tokens: float32 [B, L, H], bool [B, L] → float32 [B, H].

    Of `cls` the hidden states may be the first token's alone, [B, 1, H].
    """
    return hidden[:, 0] if pool == "cls" else masked_mean(hidden, mask)
