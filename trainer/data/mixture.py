"""How the stores of a mixture share each batch, and which rows of each a step draws."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.sampler import WINDOW, Sampler


@dataclass(frozen=True)
class Mixture:
    """One sampler for each store: every batch takes the same number of rows from a store.

    An epoch of a store draws each of its rows at most once, whatever the epochs of the others.
    """

    samplers: tuple[Sampler, ...]

    @property
    def num_rows(self) -> int:
        """Rows of all stores."""
        return sum(sampler.num_rows for sampler in self.samplers)

    @property
    def effective_rows(self) -> float:
        """Rows of one store in which a draw would meet the same row as often as it does here.

        With a share p_s of a batch and N_s rows in store s: 1 / sum_s p_s^2 / N_s. As many as there are where each
        store counts as many as it has, and few where a small store is given a large weight.
        """
        shares = ((sampler.batch_size / self.batch_size, sampler.num_rows) for sampler in self.samplers)
        return 1 / sum(share**2 / rows for share, rows in shares)

    @property
    def batch_size(self) -> int:
        """Rows of a batch."""
        return sum(sampler.batch_size for sampler in self.samplers)

    def rows(self, step: int) -> list[np.ndarray]:
        """The rows of one step (from 0), by store: int64 [B_s] each."""
        return [sampler.rows(step) for sampler in self.samplers]

    def epochs(self, steps: int) -> float:
        """How often the rows were drawn on average after so many steps, those left out of an epoch counted in."""
        passes = (steps / sampler.steps_per_epoch * sampler.num_rows for sampler in self.samplers)
        return sum(passes) / self.num_rows


def make_mixture(
    names: Sequence[str],
    rows: Sequence[int],
    weights: Sequence[float],
    batch_size: int,
    seed: int,
    window: int = WINDOW,
) -> Mixture:
    """Share a batch among stores.

    Args:
        names: of the S stores, for messages.
        rows: images to train on in each.
        weights: share of each in a batch, of any sum; none: as many as it has images.
        batch_size: B; 0: all there are.
        seed: any integer.
        window: see `Sampler`.

    Raises:
        ValueError: a store gets none, or more than it has.
    """
    if batch_size == 0:
        counts = list(rows)
    elif len(names) == 1:
        counts = [batch_size]
    else:
        counts = batch_counts(list(weights) or [float(count) for count in rows], batch_size)
        _refuse_bad_counts(names, rows, counts, batch_size)
    return Mixture(
        tuple(
            Sampler(have, count, seed, stream, window)
            for stream, (have, count) in enumerate(zip(rows, counts, strict=True))
        )
    )


def batch_counts(weights: Sequence[float], batch_size: int) -> list[int]:
    """Share a batch by weights: each store's exact share rounded down, the rest to the largest remainders.

    >>> batch_counts([1.0, 1.0, 1.0], 8)
    [3, 3, 2]
    """
    shares = [batch_size * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda one: (counts[one] - shares[one], one))
    for one in by_remainder[: batch_size - sum(counts)]:
        counts[one] += 1
    return counts


def _refuse_bad_counts(
    names: Sequence[str], rows: Sequence[int], counts: Sequence[int], batch_size: int
) -> None:
    if batch_size > sum(rows):
        raise ValueError(
            f"batch_size: must be at most the number of training images of all stores, because a batch holds each"
            f" image once; found batch_size {batch_size} and {sum(rows)} training images. Set --batch-size"
            f" {sum(rows)} or less, or embed more images."
        )
    for name, have, count in zip(names, rows, counts, strict=True):
        if count == 0:
            raise ValueError(
                f"store_weights: each store must get at least one row of a batch, found none for {name} in a batch"
                f" of {batch_size}. Raise its weight or --batch-size, or leave the store out."
            )
        if count > have:
            raise ValueError(
                f"store_weights: a store must have as many images as its share of a batch, because a batch holds"
                f" each image once; found {have:,} in {name} and a share of {count:,}. Lower its weight or"
                " --batch-size."
            )
