"""Unit vectors in float32, as every evaluation compares them."""

import numpy as np

NORM_EPSILON = 1e-8  # added to the norm, so a zero vector stays zero instead of becoming NaN


def unit_vectors(vectors: np.ndarray, what: str) -> np.ndarray:
    """Scales each row to length one: z / (‖z‖ + 1e-8), as the losses do.

    Args:
        vectors: any float dtype [N, D], not normalised.
        what: what the rows are, for the error message.

    Returns:
        float32 [N, D].

    Raises:
        ValueError: if a value is not finite. A NaN loses every comparison, so it would count as a perfect rank.
    """
    # A copy that is ours: the division below is then free to work in place.
    unit = np.array(vectors, dtype=np.float32)
    check_finite(unit, what)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True) + np.float32(NORM_EPSILON)
    return unit


def check_finite(vectors: np.ndarray, what: str) -> None:
    """Raises ValueError, counting the rows of vectors [N, D] that hold a NaN or an infinity."""
    bad_rows = np.flatnonzero(~np.isfinite(vectors).all(axis=-1))
    if len(bad_rows):
        raise ValueError(
            f"{what} must be finite; {len(bad_rows)} of {len(vectors)} rows hold NaN or infinity "
            f"(first: row {bad_rows[0]}). If the text tower's are not, training diverged: "
            "evaluate an earlier --step, or train with a smaller learning rate."
        )
