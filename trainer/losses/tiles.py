"""The logit matrix as tiles: how a run of pairs is cut into blocks, how a sweep visits every tile.

Images stand in rows and texts in columns. A run need not be a multiple of the tile. Its last block is moved back to end
with it rather than padded, since a padded copy of [B, D] is just what must not exist; the rows which that block shares
with its neighbour are not `fresh` there, and take no part in its tiles.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from trainer.losses.duplicates import Duplicates, Keys, Relation, relate
from trainer.losses.normalise import l2_normalise


@dataclass(frozen=True)
class Settings:
    """What is fixed when a loss is compiled."""

    kind: str  # "softmax" or "sigmoid"
    duplicates: Duplicates
    tile: int  # the side of a tile; a shorter run is one block
    precision: str  # of the matrix products


class Run(NamedTuple):
    """Consecutive pairs as one side sees them: raw embeddings [n, D] with the n pairs' keys."""

    embeddings: Array
    keys: Keys


class Block(NamedTuple):
    """A run's piece under work.

    start: int32 [], its first row in the run. fresh: bool [T], the rows no earlier block had.
    vectors: float32 [T, D], normalised. keys: of its T pairs.
    """

    start: Array
    fresh: Array
    vectors: Array
    keys: Keys


class Tile(NamedTuple):
    """A rectangle of the logit matrix, float32 [T, T'], with what each pair counts for: nothing if not fresh."""

    logits: Array
    relation: Relation


Visit = Callable[[Block, Block, Tile, Any, Any], tuple[Any, Any]]


def sweep(
    settings: Settings,
    images: Run,
    texts: Run,
    log_scale: Array,
    bias: Array,
    rows: Any,
    columns: Any,
    visit: Visit,
) -> tuple[Any, Any]:
    """Visits every tile of images x texts, row of tiles by row of tiles.

    Args:
        settings: the tile's side and what it holds.
        images: R pairs, in rows.
        texts: C pairs, in columns.
        log_scale: float32 [].
        bias: float32 [].
        rows: tree of arrays [R, ...], what is known of each row.
        columns: tree of arrays [C, ...], what is known of each column.
        visit: (images of the tile, its texts, the tile, its rows, its columns) -> its rows and its columns, knowing
            this tile as well.

    Returns:
        rows and columns after the last tile.
    """

    def down(number: Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
        rows, columns = state
        image = take_block(settings, images, number)

        def across(number: Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
            row, columns = state
            text = take_block(settings, texts, number)
            tile = make_tile(settings, image, text, log_scale, bias)
            row, column = visit(image, text, tile, row, read(columns, text))
            return row, write(columns, column, text)

        row, columns = lax.fori_loop(0, count_blocks(settings, texts), across, (read(rows, image), columns))
        return write(rows, row, image), columns

    return lax.fori_loop(0, count_blocks(settings, images), down, (rows, columns))


def count_blocks(settings: Settings, run: Run) -> int:
    """How many blocks cover the run."""
    return -(-run.embeddings.shape[0] // settings.tile)


def take_block(settings: Settings, run: Run, number: Array) -> Block:
    """Cuts block `number`, int32 [], out of the run and normalises it."""
    size = run.embeddings.shape[0]
    side = min(settings.tile, size)
    start = jnp.minimum(number * side, size - side)
    fresh = start + jnp.arange(side) >= number * side
    piece = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, side), run)
    return Block(start, fresh, l2_normalise(piece.embeddings), piece.keys)


def make_tile(settings: Settings, image: Block, text: Block, log_scale: Array, bias: Array) -> Tile:
    """The logits of T images against T' texts, with what each of them counts for."""
    # [T, D] @ [D, T'] -> [T, T']
    cosines = jnp.matmul(image.vectors, text.vectors.T, precision=settings.precision)
    fresh = image.fresh[:, None] & text.fresh[None, :]
    relation = relate(image.keys, text.keys, settings.duplicates)
    return Tile(jnp.exp(log_scale) * cosines + bias, Relation(*(fresh & each for each in relation)))


def read(tree: Any, block: Block) -> Any:
    """The block's rows of every array [n, ...] of the tree."""
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, block.start, block.fresh.shape[0]), tree)


def write(tree: Any, part: Any, block: Block) -> Any:
    """The tree with the block's rows replaced."""
    return jax.tree.map(lambda x, y: lax.dynamic_update_slice_in_dim(x, y, block.start, 0), tree, part)
