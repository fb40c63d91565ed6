"""How alike two sets of vectors of the same things arrange them, whatever their dimensions."""

import numpy as np

DEFINITION = (
    "cka: centred kernel alignment of cosine Gram matrices, debiased: 0 expected for unrelated vectors, 1 for the same "
    "arrangement. mutual_neighbours: mean share of the k nearest by cosine that both sides name; chance is k / (n - 1)."
)


def debiased_cka(left: np.ndarray, right: np.ndarray) -> float:
    """Centred kernel alignment of two sets of unit vectors, by the unbiased estimate of HSIC.

    The plain estimate grows with D / n even for unrelated vectors; this one does not (Kornblith et al., arXiv
    1905.00414, with the estimator of Song et al., JMLR 2012, eq. 5).

    Args:
        left, right: float32 [n, D] and [n, E], unit rows; row i of both is of the same thing.

    Returns:
        About 0 for unrelated vectors (it may fall below), 1 for equal Gram matrices.

    Raises:
        ValueError: for fewer than 4 rows.
    """
    if len(left) < 4:
        raise ValueError(
            f"alignment must have at least 4 images with a caption of their own, found {len(left)}."
        )
    one, other = _gram(left), _gram(right)
    scale = np.sqrt(max(_hsic(one, one), 0.0) * max(_hsic(other, other), 0.0))
    return float(_hsic(one, other) / scale) if scale > 0 else 0.0


def mutual_neighbours(left: np.ndarray, right: np.ndarray, k: int) -> float:
    """The mean share of each row's k nearest others that are the same on both sides (arXiv 2405.07987, sec. 2.1).

    Args:
        left, right: float32 [n, D] and [n, E], unit rows; row i of both is of the same thing.
        k: neighbours looked at, below n.
    """
    if not 1 <= k < len(left):
        raise ValueError(f"--neighbours: must be at least 1 and below the {len(left)} images, found {k}.")
    one, other = _nearest(left, k), _nearest(right, k)
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(one, other, strict=True)]))


def _gram(vectors: np.ndarray) -> np.ndarray:
    """float64 [n, n] with a zero diagonal, as the unbiased estimate wants it."""
    gram = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(gram, 0.0)
    return gram


def _hsic(one: np.ndarray, other: np.ndarray) -> float:
    n = len(one)
    means = one.sum() * other.sum() / ((n - 1) * (n - 2))
    cross = 2.0 / (n - 2) * (one.sum(axis=0) @ other.sum(axis=1))
    return float((np.vdot(one, other) + means - cross) / (n * (n - 3)))


def _nearest(vectors: np.ndarray, k: int) -> np.ndarray:
    """int64 [n, k]: the rows nearest to each row, itself left out."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argpartition(-similarity, k - 1, axis=1)[:, :k]
