"""What each loss keeps of a tile of logits, so that the whole B x B matrix never has to exist.

Images stand in rows and texts in columns. A tile is any rectangle of the logit matrix; tiles may be folded in any
order. An objective answers five questions:

    start      the statistics of n rows, or n columns, before any tile was seen
    fold       the statistics after one more tile
    total      the loss times B, once every tile was folded
    residual   what the gradient needs of a row or a column: O(B) numbers
    gradient   the derivative of the loss times B with respect to a tile's logits
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

# Below every finite logit, yet finite: the difference of two of them is 0 where that of two infinities is not a number.
LOWEST = -1e30


class Objective(Protocol):
    """A loss that is a sum over rows, columns and tiles of the logits.

    Everywhere logits is float32 [R, C]; keep and target are bool [R, C]: which pairs take part, and which of them are
    positives. Statistics are trees of arrays with one leading axis, [R] for rows and [C] for columns.
    """

    def start(self, size: int) -> Any: ...
    def fold(self, rows: Any, columns: Any, logits: Array, keep: Array, target: Array) -> tuple[Any, Any]: ...
    def total(self, rows: Any, columns: Any) -> Array: ...
    def residual(self, statistics: Any) -> Any: ...
    def gradient(self, logits: Array, keep: Array, target: Array, rows: Any, columns: Any) -> Array: ...


class Direction(NamedTuple):
    """The softmax's statistics of a run of rows, or columns: float32 [n] each.

    peak: the largest logit so far. total: the sum of exp(logit - peak).
    aim: the sum of the positives' logits. positives: how many there are.
    """

    peak: Array
    total: Array
    aim: Array
    positives: Array


class Softmax:
    """Cross-entropy in both directions, halved; the target is uniform over a row's, or column's, positives."""

    def start(self, size: int) -> Direction:
        """Nothing seen yet."""
        zeros = jnp.zeros(size, jnp.float32)
        return Direction(zeros + LOWEST, zeros, zeros, zeros)

    def fold(
        self, rows: Direction, columns: Direction, logits: Array, keep: Array, target: Array
    ) -> tuple[Direction, Direction]:
        """Both log-sum-exps are online: rescaled to the new peak with every tile."""
        kept = jnp.where(keep, logits, -jnp.inf)
        aims = jnp.where(target, logits, 0.0)
        return _fold_direction(rows, kept, aims, target, 1), _fold_direction(columns, kept, aims, target, 0)

    def total(self, rows: Direction, columns: Direction) -> Array:
        """Half the sum over rows and columns of log-sum-exp minus the mean logit of the positives."""

        def one(way: Direction) -> Array:
            return jnp.sum(way.peak + jnp.log(way.total) - way.aim / way.positives)

        return 0.5 * (one(rows) + one(columns))

    def residual(self, statistics: Direction) -> tuple[Array, Array]:
        """The log-sum-exp and one over the number of positives."""
        return statistics.peak + jnp.log(statistics.total), 1.0 / statistics.positives

    def gradient(self, logits: Array, keep: Array, target: Array, rows: Any, columns: Any) -> Array:
        """Half the probabilities of both directions, less their targets."""
        (row_partition, row_share), (column_partition, column_share) = rows, columns
        by_row = jnp.exp(logits - row_partition[:, None])
        by_column = jnp.exp(logits - column_partition[None, :])
        probability = jnp.where(keep, by_row + by_column, 0.0)
        return 0.5 * (probability - jnp.where(target, row_share[:, None] + column_share[None, :], 0.0))


def _fold_direction(before: Direction, kept: Array, aims: Array, target: Array, axis: int) -> Direction:
    peak = jnp.maximum(before.peak, jnp.max(kept, axis=axis))
    spread = jnp.exp(kept - jnp.expand_dims(peak, axis))
    return Direction(
        peak,
        before.total * jnp.exp(before.peak - peak) + jnp.sum(spread, axis=axis),
        before.aim + jnp.sum(aims, axis=axis),
        before.positives + jnp.sum(target, axis=axis, dtype=jnp.float32),
    )


class Sigmoid:
    """Every pair its own yes-or-no question; only a running sum per row is kept, to add numbers of like size."""

    def start(self, size: int) -> Array:
        """Nothing seen yet."""
        return jnp.zeros(size, jnp.float32)

    def fold(
        self, rows: Array, columns: Array, logits: Array, keep: Array, target: Array
    ) -> tuple[Array, Array]:
        """Adds the tile's terms to their rows; the columns stay as they are."""
        terms = -jax.nn.log_sigmoid(jnp.where(target, logits, -logits))
        return rows + jnp.sum(jnp.where(keep, terms, 0.0), axis=1), columns

    def total(self, rows: Array, columns: Array) -> Array:
        """The sum of all terms."""
        return jnp.sum(rows)

    def residual(self, statistics: Array) -> tuple[()]:
        """Nothing: a term depends on its own logit alone."""
        return ()

    def gradient(self, logits: Array, keep: Array, target: Array, rows: Any, columns: Any) -> Array:
        """sigmoid(S) for a negative, -sigmoid(-S) for a positive."""
        slope = jnp.where(target, -jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits))
        return jnp.where(keep, slope, 0.0)


OBJECTIVES: dict[str, Objective] = {"softmax": Softmax(), "sigmoid": Sigmoid()}
