"""The contrastive loss computed tile by tile, in memory that does not grow with the square of the batch.

One sweep over the tiles forward, one backward, with a gradient written by hand. Beside the inputs and their gradients
there is never an array larger than a tile's logits or a tile's embeddings: not B x B, not tile x B, not a normalised
copy of an input. Between the two sweeps stand the raw inputs and O(B) numbers: the log-sum-exps of rows and of columns,
both gathered online in the same sweep.

A sweep takes a run of images, a run of texts and what is known so far, and returns what is known after them. The runs
need not be the whole batch: devices in a ring sweep their own images against one visiting run of texts after another.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from trainer.losses.duplicates import Duplicates, Keys
from trainer.losses.normalise import l2_normalise
from trainer.losses.objectives import OBJECTIVES
from trainer.losses.tiles import Block, Run, Settings, Tile, count_blocks, read, sweep, take_block, write


class RowGradients(NamedTuple):
    """What the backward sweep gathers in rows.

    vectors: float32 [R, D], with respect to the normalised images.
    log_scale, bias: float32 [R], each row's share, so that numbers of like size are added.
    """

    vectors: Array
    log_scale: Array
    bias: Array


def tiled_loss(
    image_embeddings: Array,
    text_embeddings: Array,
    log_scale: Array,
    bias: Array,
    keys: Keys,
    kind: str,
    duplicates: Duplicates,
    tile: int,
    precision: str = "highest",
) -> Array:
    """The loss of `trainer.losses.contrastive_loss` in tiles; reverse mode, first order.

    Args:
        image_embeddings: any float dtype [B, D], not normalised.
        text_embeddings: any float dtype [B, D], not normalised.
        log_scale: float32 [].
        bias: float32 []; 0 for the softmax.
        keys: the B pairs' keys.
        kind: "softmax" or "sigmoid".
        duplicates: "mask", "positive" or "ignore".
        tile: rows, and columns, of logits at a time.
        precision: of the matrix products.

    Returns:
        float32 [].
    """
    settings = Settings(kind, duplicates, tile, precision)
    return _loss(settings, image_embeddings, text_embeddings, log_scale, bias, keys)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(settings: Settings, image: Array, text: Array, log_scale: Array, bias: Array, keys: Keys) -> Array:
    return _forward(settings, image, text, log_scale, bias, keys)[0]


def _forward(
    settings: Settings, image: Array, text: Array, log_scale: Array, bias: Array, keys: Keys
) -> tuple[Array, Any]:
    objective, size = OBJECTIVES[settings.kind], image.shape[0]
    start = objective.start(size)
    images, texts = Run(image, keys), Run(text, keys)
    rows, columns = forward_sweep(settings, images, texts, log_scale, bias, start, start)
    residuals = (image, text, log_scale, bias, keys, objective.residual(rows), objective.residual(columns))
    return objective.total(rows, columns) / size, residuals


def _backward(settings: Settings, residuals: Any, cotangent: Array) -> tuple[Any, ...]:
    image, text, log_scale, bias, keys, rows, columns = residuals
    images, texts = Run(image, keys), Run(text, keys)
    row_sums, text_vectors = backward_sweep(
        settings,
        images,
        texts,
        log_scale,
        bias,
        rows,
        columns,
        start_gradients(image),
        start_gradients(text).vectors,
    )
    weight = cotangent / image.shape[0]
    return (
        through_normalise(settings, images, row_sums.vectors, weight),
        through_normalise(settings, texts, text_vectors, weight),
        weight * jnp.sum(row_sums.log_scale),
        weight * jnp.sum(row_sums.bias),
        None,
    )


_loss.defvjp(_forward, _backward)


def forward_sweep(
    settings: Settings, images: Run, texts: Run, log_scale: Array, bias: Array, rows: Any, columns: Any
) -> tuple[Any, Any]:
    """Folds every tile of images x texts into the objective's statistics.

    Args:
        settings: kind, duplicates, tile and precision.
        images: R pairs, in rows.
        texts: C pairs, in columns.
        log_scale: float32 [].
        bias: float32 [].
        rows: the statistics of the R rows so far; `Objective.start(R)` at first.
        columns: the statistics of the C columns so far.

    Returns:
        The statistics of rows and columns after these tiles.
    """
    fold = OBJECTIVES[settings.kind].fold

    def visit(image: Block, text: Block, tile: Tile, row: Any, column: Any) -> tuple[Any, Any]:
        return fold(row, column, *tile)

    return sweep(settings, images, texts, log_scale, bias, rows, columns, visit)


def start_gradients(embeddings: Array) -> RowGradients:
    """Zeros to gather the gradients of embeddings [n, D] in."""
    numbers = jnp.zeros(embeddings.shape[0], jnp.float32)
    return RowGradients(jnp.zeros(embeddings.shape, jnp.float32), numbers, numbers)


def backward_sweep(
    settings: Settings,
    images: Run,
    texts: Run,
    log_scale: Array,
    bias: Array,
    rows: Any,
    columns: Any,
    row_sums: RowGradients,
    column_sums: Array,
) -> tuple[RowGradients, Array]:
    """Adds the gradient of every tile of images x texts to the sums, computing the logits again.

    The gradient is of the loss times B, as `Objective.gradient` gives it.

    Args:
        settings: kind, duplicates, tile and precision.
        images: R pairs, in rows.
        texts: C pairs, in columns.
        log_scale: float32 [].
        bias: float32 [].
        rows: the residuals of the R rows, from `Objective.residual`.
        columns: the residuals of the C columns.
        row_sums: the gradients so far, of rows.
        column_sums: float32 [C, D], likewise with respect to the normalised texts.

    Returns:
        row_sums and column_sums with these tiles added.
    """
    gradient, scale = OBJECTIVES[settings.kind].gradient, jnp.exp(log_scale)
    dot = partial(jnp.matmul, precision=settings.precision)

    def visit(image: Block, text: Block, tile: Tile, row: Any, column: Any) -> tuple[Any, Any]:
        (row_residual, sums), (column_residual, text_vectors) = row, column
        slope = gradient(*tile, row_residual, column_residual)  # [T, T']
        sums = RowGradients(
            sums.vectors + scale * dot(slope, text.vectors),  # [T, T'] @ [T', D] -> [T, D]
            sums.log_scale + jnp.sum(slope * (tile.logits - bias), axis=1),
            sums.bias + jnp.sum(slope, axis=1),
        )
        text_vectors += scale * dot(slope.T, image.vectors)  # [T', T] @ [T, D] -> [T', D]
        return (row_residual, sums), (column_residual, text_vectors)

    row, column = (rows, row_sums), (columns, column_sums)
    (_, row_sums), (_, column_sums) = sweep(settings, images, texts, log_scale, bias, row, column, visit)
    return row_sums, column_sums


def through_normalise(settings: Settings, run: Run, gradient: Array, weight: Array) -> Array:
    """Turns the gradient of normalised embeddings into that of raw ones, block by block and in place.

    Args:
        settings: for the tile.
        run: n pairs with raw embeddings [n, D].
        gradient: float32 [n, D], with respect to `l2_normalise` of them.
        weight: float32 [], what the gradient counts.

    Returns:
        [n, D] in the dtype of the raw embeddings, with respect to them.
    """

    def turn(number: Array, gradient: Array) -> Array:
        block = take_block(settings, run, number)
        before, raw = read((gradient, run.embeddings), block)
        after = jax.vjp(l2_normalise, raw.astype(jnp.float32))[1](weight * before)[0]
        return write(gradient, jnp.where(block.fresh[:, None], after, before), block)

    return lax.fori_loop(0, count_blocks(settings, run), turn, gradient).astype(run.embeddings.dtype)
