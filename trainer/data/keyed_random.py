"""Random numbers and permutations that are pure functions of a key.

Nothing here has a state: what is drawn for step 40,000 is known without drawing the 39,999 before it.
"""

import math

import numpy as np

_WORD = (1 << 64) - 1
_ROUNDS = 6


def splitmix64(x: np.ndarray) -> np.ndarray:
    """Scramble 64-bit words one to one (the finaliser of the SplitMix64 generator).

    Args:
        x: uint64 [...].

    Returns:
        uint64 [...], each bit of which depends on every bit of its input word.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(31)
    return x


def mix(*words: int | np.ndarray) -> np.ndarray:
    """Hash a sequence of words, broadcast against each other, to one uint64 each.

    Args:
        *words: Python integers (their low 64 bits count) or integer arrays [n]; their order matters.

    Returns:
        uint64 [n], or [1] when every word is a single number.
    """
    hashed = np.zeros(1, np.uint64)
    for word in words:
        hashed = splitmix64(hashed ^ _as_words(word))
    return hashed


def below(hashed: np.ndarray, limits: int | np.ndarray) -> np.ndarray:
    """Turn hashes into uniform integers.

    Args:
        hashed: uint64 [n].
        limits: integer, or integer [n]; at least 1, less than 2**32.

    Returns:
        int64 [n], element i in 0 .. limits[i] - 1.
    """
    shift = np.uint64(32)
    scaled = (hashed >> shift) * _as_words(limits)
    scaled >>= shift
    return scaled.view(np.int64)  # less than 2**32: the same number


def permute(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Map positions of a sequence to where a keyed permutation of 0 .. size - 1 sends them.

    A Feistel network over the cells of a table of about sqrt(size) rows and columns, with a few more cells than
    `size`; a value that falls outside is sent round again until it falls inside, which keeps the map one to one. Time
    and memory grow with the number of positions asked for, never with `size`.

    Args:
        positions: int64 [n], each in 0 .. size - 1.
        size: how many elements are permuted, at least 1 and at most 2**62.
        key: which permutation; any integer.

    Returns:
        int64 [n]; distinct positions give distinct values.
    """
    rows = math.isqrt(max(size - 1, 0)) + 1
    columns = -(-size // rows)
    round_keys = mix(key, np.arange(_ROUNDS))
    values = _feistel(positions.astype(np.uint64), rows, columns, round_keys)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        values[outside] = _feistel(values[outside], rows, columns, round_keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _feistel(cells: np.ndarray, rows: int, columns: int, round_keys: np.ndarray) -> np.ndarray:
    """Permute the cells of a table: by turns each cell moves along its column as its column's hash says, and along
    its row as its row's hash says."""
    row, column = np.divmod(cells, np.uint64(columns))
    for number, key in enumerate(round_keys):
        if number % 2 == 0:
            row = _moved(row, column, key, rows)
        else:
            column = _moved(column, row, key, columns)
    return row * np.uint64(columns) + column


def _moved(place: np.ndarray, by: np.ndarray, key: np.uint64, size: int) -> np.ndarray:
    """Places in 0 .. size - 1 moved on, round the end, as far as the hash of `by` says."""
    moved = below(splitmix64(by ^ key), size).view(np.uint64)
    moved += place
    return np.minimum(moved, moved - np.uint64(size))  # below 0 is a very large number


def _as_words(values: int | np.ndarray) -> np.ndarray:
    if isinstance(values, int):
        return np.array([values & _WORD], np.uint64)
    return np.atleast_1d(values).astype(np.uint64)
