"""A keyed shuffle that visits a sequence larger than memory in runs: blocks first, then rows among many blocks.

    rows     0 .. size - 1, in blocks of BLOCK consecutive ones; where the blocks begin, the key decides
    blocks   in a keyed order
    windows  of as many blocks in that order as make `window` rows; inside each its rows in a keyed order

A batch is drawn from a window: it sees rows of many blocks, far apart, while what is read from the disk over the time
of a window is its blocks, whole. Where the sequence fits into one window this is a shuffle of all its rows. Nothing is
kept: time and memory grow with the positions asked for.
"""

import numpy as np

from trainer.data.keyed_random import below, mix, permute

BLOCK = 64  # rows; of 768 float16 numbers each, 96 KiB, about what a disk reads ahead
_SHIFT, _BLOCKS, _WINDOW = 1, 2, 3


def permute_in_blocks(
    positions: np.ndarray, size: int, key: int, window: int, block: int = BLOCK
) -> np.ndarray:
    """Map positions of a sequence to where the shuffle sends them.

    Args:
        positions: int64 [n], each in 0 .. size - 1.
        size: rows that are shuffled.
        key: which shuffle; any integer.
        window: rows that are shuffled as one, rounded to whole blocks.
        block: rows of a block.

    Returns:
        int64 [n]; distinct positions give distinct values, all in 0 .. size - 1.
    """
    if size <= window:
        return permute(positions, size, int(mix(key, _WINDOW, 0)[0]))
    window = max(1, window // block) * block
    places = np.empty_like(positions)
    numbers = positions // window
    for number in np.unique(numbers):
        inside = numbers == number
        first = int(number) * window
        length = min(window, size - first)
        places[inside] = first + permute(
            positions[inside] - first, length, int(mix(key, _WINDOW, int(number))[0])
        )
    # The rows after the last whole block are no block: they stay last, among the rows of the last window. Which rows
    # they are turns with the key, as the whole sequence does.
    whole = size // block
    in_block = places < whole * block
    blocks = permute(places[in_block] // block, whole, int(mix(key, _BLOCKS)[0]))
    places[in_block] = blocks * block + places[in_block] % block
    return (places + _shift(key, size)) % size


def _shift(key: int, size: int) -> int:
    """A place in 0 .. size - 1."""
    high, low = (int(below(mix(key, _SHIFT, half), 1 << 31)[0]) for half in (0, 1))
    return ((high << 31) | low) % size
