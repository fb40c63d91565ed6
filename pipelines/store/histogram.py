"""A histogram whose range need not be known beforehand."""

import math

import numpy as np

FINE = 512  # bins kept while counting


class Histogram:
    """Counts values in bins of one width, a power of two that doubles whenever there are too many bins.

    Counts are exact and memory stays at some kilobytes, whatever the values are.

    >>> histogram = Histogram()
    >>> histogram.add(np.array([1.0, 1.5, 9.0]))
    >>> histogram.bars(3)
    [(0.0, 4.0, 2), (4.0, 8.0, 0), (8.0, 12.0, 1)]
    """

    def __init__(self) -> None:
        self.count, self.total = 0, 0.0
        self.smallest, self.largest = math.inf, -math.inf
        self._width = 0.0  # the first values decide
        self._bins: dict[int, int] = {}

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    def add(self, values: np.ndarray) -> None:
        """Counts finite values, float [n]; others are left out."""
        values = values[np.isfinite(values)].astype(np.float64)
        if not len(values):
            return
        self.count += len(values)
        self.total += float(values.sum())
        self.smallest = min(self.smallest, float(values.min()))
        self.largest = max(self.largest, float(values.max()))
        if not self._width:
            self._width = _first_width(values)
        while (
            max(abs(self.smallest), abs(self.largest)) / self._width >= 2.0**52
        ):  # a number float64 can not hold
            self._double()
        numbers, counts = np.unique(np.floor(values / self._width).astype(np.int64), return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            self._bins[number] = self._bins.get(number, 0) + count
        while len(self._bins) > FINE:
            self._double()

    def bars(self, most: int = 12) -> list[tuple[float, float, int]]:
        """(from, to, count) of at most `most` bins from the smallest value to the largest; empty ones included."""
        if not self._bins:
            return []
        bins, width = dict(self._bins), self._width
        while max(bins) - min(bins) >= most:
            bins, width = _halved(bins), width * 2
        return [
            (number * width, (number + 1) * width, bins.get(number, 0))
            for number in range(min(bins), max(bins) + 1)
        ]

    def _double(self) -> None:
        self._bins, self._width = _halved(self._bins), self._width * 2


def _first_width(values: np.ndarray) -> float:
    """A power of two that cuts the range of the values into about `FINE` bins; equal values get a narrow one."""
    largest = float(np.abs(values).max())
    spread = float(values.max() - values.min()) / FINE
    return 2.0 ** math.ceil(math.log2(max(spread, largest * 2.0**-40, 2.0**-1000)))


def _halved(bins: dict[int, int]) -> dict[int, int]:
    halved: dict[int, int] = {}
    for number, count in bins.items():
        halved[number // 2] = halved.get(number // 2, 0) + count
    return halved
