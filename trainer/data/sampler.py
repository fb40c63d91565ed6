"""Which rows, captions, templates and views a step trains on, from the seed and the step alone."""

import functools
from dataclasses import dataclass

import numpy as np

from trainer.data.block_permutation import permute_in_blocks
from trainer.data.keyed_random import below, mix

# One salt for each kind of draw, so that they do not follow each other.
_EPOCH, _CAPTION, _TEMPLATE, _VIEW, _KIND, _BATCH = 1, 2, 3, 4, 5, 6

# Images that are shuffled as one: of 768 float16 numbers each, 6 GiB.
WINDOW = 1 << 22


@dataclass(frozen=True)
class Sampler:
    """Draws the batches of one store without a state: resuming at a step is asking for that step.

    Each epoch visits the rows in a new keyed order, every row at most once. No batch spans two epochs, so
    the last `remainder` rows of each order are left out of that epoch.

    Attributes:
        num_rows: rows there are to train on.
        batch_size: rows a step takes.
        seed: any integer.
        stream: tells stores of one mixture apart, so that they do not draw alike.
        window: rows that are shuffled as one; more are shuffled in blocks (`block_permutation`).

    Raises:
        ValueError: the batch is larger than the data.
    """

    num_rows: int
    batch_size: int
    seed: int
    stream: int = 0
    window: int = WINDOW

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.num_rows:
            raise ValueError(
                f"batch_size: must be between 1 and the number of training images, because a batch holds each"
                f" image once; found batch_size {self.batch_size} and {self.num_rows} training images."
                f" Set --batch-size {max(self.num_rows, 1)} or less, or embed more images."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the rows."""
        return self.num_rows // self.batch_size

    @property
    def remainder(self) -> int:
        """Rows left out of each epoch."""
        return self.num_rows % self.batch_size

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that a step (from 0) belongs to."""
        return step // self.steps_per_epoch

    def rows(self, step: int) -> np.ndarray:
        """The rows of one step: int64 [B], distinct and ascending, in 0 .. num_rows - 1.

        A batch is a set: no loss looks at its order, and ascending rows are read faster.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        positions = np.arange(place * self.batch_size, (place + 1) * self.batch_size)
        key = int(mix(self._key, _EPOCH, epoch)[0])
        return np.sort(permute_in_blocks(positions, self.num_rows, key, self.window))

    def caption_choice(self, step: int, rows: np.ndarray, counts: np.ndarray, turn: int = 0) -> np.ndarray:
        """Which of its captions each row shows: int64 [B], element i in 0 .. counts[i] - 1.

        Args:
            step: from 0.
            rows: int64 [B], as `rows` gives them.
            counts: integer [B], captions of each row, at least 1.
            turn: of several choices for one row, which.
        """
        return self._choice(counts, _CAPTION, step, rows, turn)

    def kind_choice(self, step: int, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Which of its kinds of caption each row shows: as `caption_choice`."""
        return self._choice(counts, _KIND, step, rows)

    def batch_choice(self, step: int, count: int) -> int:
        """One of `count` things for a whole batch, the same for every store of a mixture."""
        return int(below(mix(self.seed, _BATCH, step), count)[0])

    def template_choice(self, step: int, rows: np.ndarray, num_templates: int) -> np.ndarray:
        """Which template each row's caption is set into: int64 [B] in 0 .. num_templates - 1."""
        return self._choice(num_templates, _TEMPLATE, step, rows)

    def view_choice(self, step: int, rows: np.ndarray, num_views: int) -> np.ndarray:
        """Which stored view of its image each row shows: int64 [B] in 0 .. num_views - 1."""
        return self._choice(num_views, _VIEW, step, rows)

    def _choice(
        self, counts: int | np.ndarray, salt: int, step: int, rows: np.ndarray, *turn: int
    ) -> np.ndarray:
        """One of `counts` for each row; where there is no choice nothing is drawn, which halves the work of a batch."""
        if np.max(counts, initial=1) == 1:
            return np.zeros(len(rows), np.int64)
        return below(mix(self._key, salt, step, rows, *turn), counts)

    @functools.cached_property
    def _key(self) -> int:
        return int(mix(self.seed, self.stream)[0])
