"""Exact gradients of a batch whose activations do not fit in memory, microbatch by microbatch.

A contrastive loss looks at all pairs at once, so its gradient cannot be averaged over pieces. But only embeddings enter
it, and those are small. Two passes over the text tower therefore do (GradCache, arXiv 2101.06983):

    1  every microbatch is embedded, and no activation is kept     [B, L] -> [B, D]
       the loss of the whole batch gives its gradient with respect to the embeddings, the logit scale and bias
    2  every microbatch is embedded again, and its rows of that gradient are pulled back to the parameters, whose
       gradients add up in float32

The update is that of the whole batch within float32 rounding, dropout included: a row's mask follows from the step's
key and the row's place in the whole batch. The price is a second forward pass, a third more work.
"""

from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax


class EmbedText(Protocol):
    """The trained part of a text tower.

    Args:
        params: what trains.
        text: tokens int32 [B, L], or features float32 [B, H]: what `Batch.text` holds.
        key: the step's dropout key.
        row_offset: int32 [], the place of the first row in the whole batch. Whoever embeds whole batches alone may
            leave it out.

    Returns:
        float32 [B, D], not normalised; a row must not depend on the others.
    """

    def __call__(self, params: Any, text: Array, key: Array, row_offset: Array | int = 0, /) -> Array: ...


def in_microbatches(embed: EmbedText, size: int) -> EmbedText:
    """The same function and the same gradient with respect to params, with the activations of `size` rows at a time.

    Args:
        embed: must take a row_offset.
        size: the most rows at a time. B rows are cut into the fewest microbatches, all of one size, which is smaller
            than `size` where that evens them out; the last is moved back to end with the batch, so that fewer rows
            than there are microbatches are embedded twice in a pass (their gradient counts once).

    Returns:
        What may be called like `embed`. Reverse mode, first order, in params alone: text gets no gradient.

    Raises:
        ValueError: for a size below 1.
    """
    if size < 1:
        raise ValueError(f"microbatch_size: must be at least 1, or None for the whole batch; found {size}.")

    def embed_batch(params: Any, text: Array, key: Array, row_offset: Array | int = 0, /) -> Array:
        if text.shape[0] <= size:
            return embed(params, text, key, row_offset)
        return _embed(embed, size, params, text, key, jnp.asarray(row_offset, jnp.int32))

    return embed_batch


class Cut(NamedTuple):
    """How a batch is cut: `pieces` microbatches of `side` of its `rows`."""

    rows: int
    pieces: int
    side: int

    @classmethod
    def evenly(cls, rows: int, size: int) -> "Cut":
        """The fewest microbatches of at most `size` rows, of the smallest size that covers all rows."""
        pieces = -(-rows // size)
        return cls(rows, pieces, -(-rows // pieces))

    def start(self, number: Array) -> Array:
        """Where microbatch `number`, int32 [], begins: int32 []."""
        return jnp.minimum(number * self.side, self.rows - self.side)

    def fresh(self, number: Array) -> Array:
        """The rows of microbatch `number` that none before it had: bool [side]."""
        return self.start(number) + jnp.arange(self.side) >= number * self.side


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _embed(embed: EmbedText, size: int, params: Any, text: Array, key: Array, row_offset: Array) -> Array:
    cut = Cut.evenly(text.shape[0], size)

    def piece(start: Array) -> Array:
        rows = lax.dynamic_slice_in_dim(text, start, cut.side)
        return embed(params, rows, key, row_offset + start)

    def put(number: Array, embeddings: Array) -> Array:
        start = cut.start(number)
        return lax.dynamic_update_slice_in_dim(embeddings, piece(start), start, 0)

    one = jax.eval_shape(piece, jax.ShapeDtypeStruct((), jnp.int32))
    return lax.fori_loop(0, cut.pieces, put, jnp.zeros((cut.rows, *one.shape[1:]), one.dtype))


def _forward(
    embed: EmbedText, size: int, params: Any, text: Array, key: Array, row_offset: Array
) -> tuple[Array, Any]:
    return _embed(embed, size, params, text, key, row_offset), (params, text, key, row_offset)


def _backward(embed: EmbedText, size: int, residuals: Any, gradient: Array) -> tuple[Any, None, None, None]:
    params, text, key, row_offset = residuals
    cut = Cut.evenly(text.shape[0], size)

    def add(number: Array, sums: Any) -> Any:
        start = cut.start(number)
        rows = lax.dynamic_slice_in_dim(text, start, cut.side)
        _, pull = jax.vjp(lambda params: embed(params, rows, key, row_offset + start), params)
        piece = lax.dynamic_slice_in_dim(gradient, start, cut.side)
        (found,) = pull(jnp.where(cut.fresh(number)[:, None], piece, 0))
        return jax.tree.map(lambda total, one: total + one.astype(jnp.float32), sums, found)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
    sums = lax.fori_loop(0, cut.pieces, add, zeros)
    return jax.tree.map(lambda total, leaf: total.astype(leaf.dtype), sums, params), None, None, None


_embed.defvjp(_forward, _backward)
