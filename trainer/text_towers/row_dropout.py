"""Dropout whose mask for a row follows from the key and the row's global number alone."""

import jax
import jax.numpy as jnp


def row_keys(key: jax.Array | None, rows: int, row_offset: int | jax.Array = 0) -> jax.Array | None:
    """One key a row, so that a batch cut into microbatches of any size sees the masks of the whole.

    Args:
        key: the step's key, or None for no dropout.
        rows: B, the rows of this microbatch.
        row_offset: int32 [], where its first row stands in the whole batch.

    Returns:
        B keys, or None for None.
    """
    if key is None:
        return None
    numbers = jnp.asarray(row_offset, jnp.uint32) + jnp.arange(rows, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)


def row_dropout(x: jax.Array, keys: jax.Array | None, site: int, rate: float) -> jax.Array:
    """Zeroes each value with probability `rate`, scaling the others by 1 / (1 - rate).

    Args:
        x: float [B, ...].
        keys: the B keys of `row_keys`; None leaves x as it is.
        site: number of this place in the network; each place draws its own mask.
        rate: in [0, 1).
    """
    if keys is None or rate == 0.0:
        return x

    def kept(key: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, site), 1.0 - rate, x.shape[1:])

    return jnp.where(jax.vmap(kept)(keys), x / (1.0 - rate), 0.0).astype(x.dtype)
