"""Images of equal bytes under different ids, embedded once within a unit (`--dedup-exact`)."""

from collections.abc import Iterable, Iterator

import numpy as np

from lit_precompute.prepare import Prepared


class EqualImages:
    """Lets the first image of each sha256 through to the tower, and gives its vector to the others.

    Args:
        embeds_once: False lets every image through.
    """

    def __init__(self, embeds_once: bool) -> None:
        self._embeds_once = embeds_once
        self._sent: set[bytes] = set()
        self._others: list[Prepared] = []

    def first(self, images: Iterable[tuple[Prepared, np.ndarray]]) -> Iterator[tuple[Prepared, np.ndarray]]:
        """The images to embed; the others are remembered without their pixels."""
        for item, pixels in images:
            if self._embeds_once and item.sha256 in self._sent:
                self._others.append(item)
            else:
                self._sent.add(item.sha256)
                yield item, pixels

    def spread(
        self, embedded: Iterable[tuple[Prepared, np.ndarray]]
    ) -> Iterator[tuple[Prepared, np.ndarray]]:
        """Every image with its vector: those that were embedded, then the others; not in the order of records."""
        vectors: dict[bytes, np.ndarray] = {}
        for item, vector in embedded:
            if self._embeds_once:
                vectors[item.sha256] = vector
            yield item, vector
        for item in self._others:
            yield item, vectors[item.sha256]
