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

from trainer.losses.duplicates import Relation

# Below every finite logit, yet finite: the difference of two of them is 0, where that of infinities is not a number.
LOWEST = -1e30


class Objective(Protocol):
    """A loss that is a sum over rows, columns and tiles of the logits.

    Everywhere logits is float32 [R, C] with the relation of its pairs. Statistics are trees of arrays with one leading
    axis, [R] for rows and [C] for columns.
    """

    def start(self, size: int) -> Any: ...
    def fold(self, rows: Any, columns: Any, logits: Array, relation: Relation) -> tuple[Any, Any]: ...
    def total(self, rows: Any, columns: Any) -> Array: ...
    def residual(self, statistics: Any) -> Any: ...
    def gradient(self, logits: Array, relation: Relation, rows: Any, columns: Any) -> Array: ...


class Direction(NamedTuple):
    """The softmax's statistics of a run of rows, or columns: float32 [n] each.

    peak: the largest logit so far that is not the pair's own. others: the sum of exp(logit - peak) over the same.
    own: the logit of the pair itself. aim: the sum of its duplicates' logits where they are positives.
    duplicates: how many of those there are.
    """

    peak: Array
    others: Array
    own: Array
    aim: Array
    duplicates: Array


class Residual(NamedTuple):
    """What the softmax's gradient needs of a run of rows, or columns: float32 [n] each.

    partition: the log-sum-exp of all. missed: the probability of all but the pair's own. share: one over the positives.
    """

    partition: Array
    missed: Array
    share: Array


class Softmax:
    """Cross-entropy in both directions, halved; the target is uniform over a row's, or column's, positives.

    The pair's own logit stays outside the log-sum-exp of the others, o. Then

        logsumexp_j S_ij - S_ii = softplus(o - S_ii)      1 - p_ii = sigmoid(o - S_ii)

    keep their digits when training has made them tiny, where the plain differences are all rounding.
    """

    def start(self, size: int) -> Direction:
        """Nothing seen yet."""
        zeros = jnp.zeros(size, jnp.float32)
        return Direction(zeros + LOWEST, zeros, zeros, zeros, zeros)

    def fold(
        self, rows: Direction, columns: Direction, logits: Array, relation: Relation
    ) -> tuple[Direction, Direction]:
        """Both log-sum-exps are online: rescaled to the new peak with every tile."""
        others = jnp.where(relation.keep & ~relation.own, logits, -jnp.inf)
        twins = relation.target & ~relation.own

        def one(before: Direction, axis: int) -> Direction:
            peak = jnp.maximum(before.peak, jnp.max(others, axis=axis))
            spread = jnp.exp(others - jnp.expand_dims(peak, axis))
            return Direction(
                peak,
                before.others * jnp.exp(before.peak - peak) + jnp.sum(spread, axis=axis),
                before.own + jnp.sum(jnp.where(relation.own, logits, 0.0), axis=axis),
                before.aim + jnp.sum(jnp.where(twins, logits, 0.0), axis=axis),
                before.duplicates + jnp.sum(twins, axis=axis, dtype=jnp.float32),
            )

        return one(rows, 1), one(columns, 0)

    def total(self, rows: Direction, columns: Direction) -> Array:
        """Half the sum over rows and columns of log-sum-exp minus the mean logit of the positives."""

        def one(way: Direction) -> Array:
            share = 1.0 / (1.0 + way.duplicates)
            return jnp.sum(jax.nn.softplus(_margin(way)) + (1.0 - share) * way.own - share * way.aim)

        return 0.5 * (one(rows) + one(columns))

    def residual(self, statistics: Direction) -> Residual:
        """Three numbers a row, or column."""
        margin = _margin(statistics)
        partition = statistics.own + jax.nn.softplus(margin)
        return Residual(partition, jax.nn.sigmoid(margin), 1.0 / (1.0 + statistics.duplicates))

    def gradient(self, logits: Array, relation: Relation, rows: Residual, columns: Residual) -> Array:
        """Half of probability less target, in both directions."""

        def one(way: Residual, axis: int) -> Array:
            partition, missed, share = (jnp.expand_dims(number, axis) for number in way)
            probability = jnp.where(relation.keep, jnp.exp(logits - partition), 0.0)
            error = probability - jnp.where(relation.target, share, 0.0)
            return jnp.where(relation.own, (1.0 - share) - missed, error)

        return 0.5 * (one(rows, 1) + one(columns, 0))


def _margin(way: Direction) -> Array:
    """The log-sum-exp of the others less the pair's own logit; -inf where there are no others."""
    return way.peak + jnp.log(way.others) - way.own


class Sigmoid:
    """Every pair its own yes-or-no question; a running sum per row is kept, to add numbers of like size."""

    def start(self, size: int) -> Array:
        """Nothing seen yet."""
        return jnp.zeros(size, jnp.float32)

    def fold(self, rows: Array, columns: Array, logits: Array, relation: Relation) -> tuple[Array, Array]:
        """Adds the tile's terms to their rows; the columns stay as they are."""
        terms = -jax.nn.log_sigmoid(jnp.where(relation.target, logits, -logits))
        return rows + jnp.sum(jnp.where(relation.keep, terms, 0.0), axis=1), columns

    def total(self, rows: Array, columns: Array) -> Array:
        """The sum of all terms."""
        return jnp.sum(rows)

    def residual(self, statistics: Array) -> tuple[()]:
        """Nothing: a term depends on its own logit alone."""
        return ()

    def gradient(self, logits: Array, relation: Relation, rows: Any, columns: Any) -> Array:
        """sigmoid(S) for a negative, -sigmoid(-S) for a positive."""
        slope = jnp.where(relation.target, -jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits))
        return jnp.where(relation.keep, slope, 0.0)


OBJECTIVES: dict[str, Objective] = {"softmax": Softmax(), "sigmoid": Sigmoid()}
