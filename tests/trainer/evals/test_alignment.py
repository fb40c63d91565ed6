"""Alignment of two arrangements: what is equal, what is unrelated, and a slow twin of both figures."""

import numpy as np
import pytest

from trainer.evals.alignment import debiased_cka, mutual_neighbours
from trainer.evals.vectors import unit_vectors
from trainer.evals.word_vectors import word_vectors


def units(seed: int, n: int, dim: int) -> np.ndarray:
    return unit_vectors(np.random.default_rng(seed).standard_normal((n, dim)), "test vectors")


def slow_hsic(k: np.ndarray, other: np.ndarray) -> float:
    """The mean over quadruples of distinct rows of k_ij (l_ij + l_qr - 2 l_iq), which the estimate abbreviates."""
    n, total, count = len(k), 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q])
                        count += 1
    return total / count


def test_cka_is_the_mean_over_quadruples() -> None:
    left, right = units(0, 9, 3), units(1, 9, 5)
    k, other = left @ left.T, right @ right.T
    want = slow_hsic(k, other) / np.sqrt(slow_hsic(k, k) * slow_hsic(other, other))
    assert debiased_cka(left, right) == pytest.approx(want, abs=1e-5)


def test_a_rotation_changes_no_arrangement() -> None:
    left = units(0, 40, 6)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))
    turned = (left @ rotation).astype(np.float32)
    assert debiased_cka(left, turned) == pytest.approx(1.0, abs=1e-5)
    assert mutual_neighbours(left, turned, 5) > 0.99


def test_unrelated_vectors_are_near_nothing_though_there_are_more_dimensions_than_rows() -> None:
    found = [debiased_cka(units(seed, 64, 512), units(seed + 100, 64, 512)) for seed in range(8)]
    assert abs(np.mean(found)) < 0.03
    assert mutual_neighbours(units(0, 400, 64), units(1, 400, 64), 10) == pytest.approx(10 / 399, abs=0.01)


def test_mutual_neighbours_leave_the_row_itself_out() -> None:
    circle = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    pairs = unit_vectors(np.array([[1, 0.1], [-1, 0], [1, -0.1], [-1, 0.1]]), "pairs")
    # On the circle each row's two nearest are its sides; on the line rows 0, 2 and 1, 3 belong together.
    assert mutual_neighbours(circle, circle, 2) == 1.0
    assert mutual_neighbours(pairs, pairs, 1) == 1.0
    assert mutual_neighbours(circle + 1e-3 * pairs, pairs, 1) == 0.0


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 images"):
        debiased_cka(units(0, 3, 2), units(0, 3, 2))
    with pytest.raises(ValueError, match="below the 5 images"):
        mutual_neighbours(units(0, 5, 2), units(0, 5, 2), 5)


def test_rare_words_weigh_more_and_case_does_not_count() -> None:
    vectors = word_vectors(["a red kite", "a Red Kite!", "a blue kite", "a", ""])
    similarity = vectors @ vectors.T
    assert similarity[0, 1] == pytest.approx(1.0)
    assert similarity[0, 2] < 0.75  # two of three words shared, but the common ones
    assert not vectors[4].any()
