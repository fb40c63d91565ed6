"""Random numbers and permutations that are pure functions of a key.

Nothing here has a state: what is drawn for step 40,000 is known without drawing the 39,999 before it.
"""

import numpy as np

_WORD = (1 << 64) - 1
_ROUNDS = 8  # even, so that the two halves end with the widths they began with


def splitmix64(x: np.ndarray) -> np.ndarray:
    """Scramble 64-bit words one to one (the finaliser of the SplitMix64 generator).

    Args:
        x: uint64 [...].

    Returns:
        uint64 [...], each bit of which depends on every bit of its input word.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


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
    return (((hashed >> shift) * _as_words(limits)) >> shift).astype(np.int64)


def permute(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Map positions of a sequence to where a keyed permutation of 0 .. size - 1 sends them.

    A Feistel network permutes the smallest power of two that holds `size`; a value that falls outside is
    sent round again until it falls inside, which keeps the map one to one. Time and memory grow with the
    number of positions asked for, never with `size`.

    Args:
        positions: int64 [n], each in 0 .. size - 1.
        size: how many elements are permuted, at least 1.
        key: which permutation; any integer.

    Returns:
        int64 [n]; distinct positions give distinct values.
    """
    bits = max(2, (size - 1).bit_length())
    round_keys = mix(key, np.arange(_ROUNDS))
    values = _feistel(positions.astype(np.uint64), bits // 2, bits - bits // 2, round_keys)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        values[outside] = _feistel(values[outside], bits // 2, bits - bits // 2, round_keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _feistel(x: np.ndarray, left_bits: int, right_bits: int, round_keys: np.ndarray) -> np.ndarray:
    """Permute the words of `left_bits + right_bits` bits. Widths may differ by one: they swap with the halves."""
    left, right = x >> np.uint64(right_bits), x & np.uint64((1 << right_bits) - 1)
    for key in round_keys:
        left, right = right, left ^ (splitmix64(right ^ key) & np.uint64((1 << left_bits) - 1))
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint64(right_bits)) | right


def _as_words(values: int | np.ndarray) -> np.ndarray:
    if isinstance(values, int):
        return np.array([values & _WORD], np.uint64)
    return np.atleast_1d(values).astype(np.uint64)
