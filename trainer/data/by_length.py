"""Features of token rows computed at about their own lengths instead of the length all are padded to."""

from collections.abc import Callable

import numpy as np

Compute = Callable[[np.ndarray], np.ndarray]

_BUCKETS = 8  # lengths a backbone is compiled for at most
_SHORTEST = 4  # tokens; below it there is little to save
# How far apart, of a row's norm, features may be that differ by rounding alone: bfloat16 keeps 8 bits.
_ROUNDING = 1e-2


def features_by_length(
    tokens: np.ndarray, compute: Compute, feature_dim: int, pad_id: int, batch_size: int
) -> np.ndarray:
    """Run a backbone over rows of tokens, those of like length together.

    Not every backbone is blind to padding (SigLIP's looks at it). So one batch is computed both ways first, and where
    the results differ by more than rounding all rows are computed at full length.

    Args:
        tokens: int32 [n, L], padded on the right.
        compute: int32 [batch_size, l] -> float32 [batch_size, H], for any l <= L.
        feature_dim: H.
        pad_id: what rows are padded with.
        batch_size: rows at a time; the last batch of a length is filled up with its own last row.

    Returns:
        float32 [n, H].
    """
    features = np.empty((len(tokens), feature_dim), np.float32)
    lengths = bucket_lengths(tokens, pad_id)
    if len(tokens) and not _blind_to_padding(tokens, lengths, compute, batch_size):
        return features_of(tokens, compute, feature_dim, batch_size)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        features[rows] = features_of(tokens[rows, :length], compute, feature_dim, batch_size)
    return features


def features_of(tokens: np.ndarray, compute: Compute, feature_dim: int, batch_size: int) -> np.ndarray:
    """Run a backbone over rows of one length: int32 [n, l] -> float32 [n, H]."""
    features = np.empty((len(tokens), feature_dim), np.float32)
    for start in range(0, len(tokens), batch_size):
        batch = tokens[start : start + batch_size]
        features[start : start + len(batch)] = _computed(batch, compute, batch_size)
    return features


def bucket_lengths(tokens: np.ndarray, pad_id: int) -> np.ndarray:
    """The length each row is computed at: its own, rounded up to one of a few.

    Args:
        tokens: int32 [n, L].
        pad_id: what rows are padded with.

    Returns:
        int64 [n], at most L.
    """
    full = tokens.shape[1]
    step = max(_SHORTEST, -(-full // _BUCKETS))
    own = full - (tokens[:, ::-1] != pad_id).argmax(axis=1)
    own[(tokens == pad_id).all(axis=1)] = 1
    return np.minimum(-(-own // step) * step, full)


def _computed(rows: np.ndarray, compute: Compute, batch_size: int) -> np.ndarray:
    filled = np.concatenate([rows, np.repeat(rows[-1:], batch_size - len(rows), axis=0)])
    return np.asarray(compute(filled), np.float32)[: len(rows)]


def _blind_to_padding(tokens: np.ndarray, lengths: np.ndarray, compute: Compute, batch_size: int) -> bool:
    """Whether the shortest rows have the same features with and without their padding."""
    shortest = int(lengths.min())
    if shortest == tokens.shape[1]:
        return True
    rows = tokens[np.flatnonzero(lengths == shortest)[:batch_size]]
    long, short = (_computed(one, compute, batch_size) for one in (rows, rows[:, :shortest]))
    apart = np.linalg.norm(long - short, axis=1)
    return bool((apart <= _ROUNDING * np.linalg.norm(long, axis=1) + 1e-6).all())
