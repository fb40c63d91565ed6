"""Few-shot linear probe: the reference's closed-form ridge regression on cached image embeddings."""

from dataclasses import dataclass

import numpy as np

BIAS = 100.0  # the constant feature: large, so that the ridge penalty barely touches the bias

DEFINITION = (
    "For each seed and number of shots, that many images of each class are drawn (a permutation per class from "
    "numpy's default_rng(seed)); features are whitened by the drawn images' mean and standard deviation + 1e-5, a "
    "constant 100 is appended, and W = (XᵀX + l2·I)⁻¹XᵀY is solved for targets ±1. Accuracy is the fraction of "
    "test images whose highest output is their label."
)


@dataclass(frozen=True)
class Probe:
    """A fitted linear probe.

    Attributes:
        mean, std: float64 [1, D], of the few training rows; std has 1e-5 added.
        weights: float64 [D + 1, C]; the last row belongs to the constant feature.
    """

    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Class scores float64 [N, C] of features [N, D]."""
        return _with_bias((features - self.mean) / self.std) @ self.weights


def fit_probe(features: np.ndarray, labels: np.ndarray, n_classes: int, l2: float = 2.0**10) -> Probe:
    """Fits W = (XᵀX + l2·I)⁻¹XᵀY in float64, on whichever Gram matrix is smaller.

    With fewer rows than columns the same W is Xᵀ(XXᵀ + l2·I)⁻¹Y, an [N, N] system.

    Args:
        features: any float dtype [N, D], raw.
        labels: int [N] in 0..C-1.
        n_classes: C.
        l2: strength of the ridge; the reference's default is 2¹⁰.
    """
    x = np.asarray(features, dtype=np.float64)
    mean, std = x.mean(axis=0, keepdims=True), x.std(axis=0, keepdims=True) + 1e-5
    x = _with_bias((x - mean) / std)
    y = np.where(np.arange(n_classes) == np.asarray(labels)[:, None], 1.0, -1.0)  # [N, C]
    if x.shape[0] >= x.shape[1]:
        weights = np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)
    else:
        weights = x.T @ np.linalg.solve(x @ x.T + l2 * np.eye(x.shape[0]), y)
    return Probe(mean, std, weights)


def accuracy(probe: Probe, features: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of features [N, D] whose highest score is their label, int [N]."""
    return float((probe.scores(features).argmax(axis=1) == labels).mean())


def draw_shots(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Rows of `shots` images of each class, drawn as the reference draws them.

    Args:
        labels: int [N].
        shots: images a class; a class with fewer gives all it has.
        seed: of numpy's default_rng.

    Returns:
        int64 rows, class after class.
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == label))[:shots] for label in np.unique(labels)]
    return np.concatenate(drawn)


def _with_bias(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.full((len(x), 1), BIAS)], axis=1)
