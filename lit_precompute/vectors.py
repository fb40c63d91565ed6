"""Whether a vector can be stored."""

import numpy as np

FLOAT16_MAX = float(np.finfo(np.float16).max)


def vector_problem(vector: np.ndarray, dtype: str) -> tuple[str, str] | None:
    """Why a vector can not be stored, as a reason of `schemas.failures` and what was found; None when it can.

    Args:
        vector: float32 [D].
        dtype: how a component is stored: "float16" or "float32".
    """
    finite = np.isfinite(vector)
    if not finite.all():
        return "not_finite", f"{int((~finite).sum())} components"
    largest = float(np.abs(vector).max(initial=0.0))
    if dtype == "float16" and largest > FLOAT16_MAX:
        return "overflow", f"largest component {largest:.4g}; use --dtype float32"
    if not np.any(vector.astype(dtype)):
        return "zero_vector", f"all components 0 as {dtype}"
    return None


def vectors_problem(vectors: np.ndarray, dtype: str) -> tuple[str, str] | None:
    """Why an image's vectors can not be stored: what `vector_problem` says of the first view that has one.

    Args:
        vectors: float32 [V, D]; all are stored, or none.
    """
    for view, vector in enumerate(vectors):
        if (problem := vector_problem(vector, dtype)) is not None:
            reason, detail = problem
            return reason, detail if len(vectors) == 1 else f"view {view}: {detail}"
    return None
