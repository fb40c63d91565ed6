"""Cosines counted in narrow bins: quantiles of any number of them in constant memory."""

import math

import numpy as np

FINE = 40_000  # bins over [-1, 1]: a quantile is known to half of 5e-5
SHOWN = 50  # bars of a report


class CosineHistogram:
    """Counts cosines; rounding may put some a little outside [-1, 1], and they count as at the end.

    >>> histogram = CosineHistogram()
    >>> histogram.add(np.array([0.1, 0.2, 0.3], np.float32))
    >>> round(histogram.quantile(0.5), 3)
    0.2
    """

    def __init__(self) -> None:
        self._bins = np.zeros(FINE, np.int64)
        self._sum = self._squares = 0.0
        self._least, self._most = math.inf, -math.inf

    @property
    def count(self) -> int:
        return int(self._bins.sum())

    def add(self, cosines: np.ndarray) -> None:
        """Counts float [n] finite cosines."""
        values = np.asarray(cosines, np.float64)
        if not len(values):
            return
        places = np.clip(((values + 1) / 2 * FINE).astype(np.int64), 0, FINE - 1)
        self._bins += np.bincount(places, minlength=FINE)
        self._sum += float(values.sum())
        self._squares += float((values**2).sum())
        self._least, self._most = min(self._least, float(values.min())), max(self._most, float(values.max()))

    def quantile(self, share: float) -> float:
        """The cosine that `share` of all lie below, to half a bin."""
        cumulated = np.cumsum(self._bins)
        place = int(np.searchsorted(cumulated, share * cumulated[-1], "left"))
        middle = (min(place, FINE - 1) + 0.5) / FINE * 2 - 1
        return min(max(middle, self._least), self._most)

    def summary(self) -> dict[str, float]:
        """Mean, its standard error, standard deviation, smallest and largest."""
        mean = self._sum / self.count
        std = math.sqrt(max(self._squares / self.count - mean**2, 0.0))
        return {
            "mean": mean,
            "standard_error": std / math.sqrt(self.count),
            "std": std,
            "min": self._least,
            "max": self._most,
        }

    def bars(self) -> tuple[list[float], list[int]]:
        """(edges [51], counts [50]) from the smallest cosine to the largest."""
        used = np.flatnonzero(self._bins)
        first, width = int(used[0]), max(1, -(-(int(used[-1]) - int(used[0]) + 1) // SHOWN))
        padded = np.zeros(width * SHOWN, np.int64)
        inside = self._bins[first : first + width * SHOWN]
        padded[: len(inside)] = inside
        edges = [round((first + width * place) / FINE * 2 - 1, 6) for place in range(SHOWN + 1)]
        return edges, padded.reshape(SHOWN, width).sum(axis=1).tolist()
