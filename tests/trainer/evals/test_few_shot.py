"""The few-shot linear probe against the reference's weights and accuracies."""

import numpy as np
import pytest

from trainer.evals import few_shot


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "evaluators" / "evaluators.npz")


# The reference solves in float32: with a weak ridge its own rounding (condition number 6e5) shows at 4e-4, while
# our float64 and NumPy's float32 agree to 1e-7.
@pytest.mark.parametrize(
    ("n", "l2", "atol"), [(60, 1024, 1e-5), (12, 1024, 1e-5), (60, 1, 1e-3), (12, 1, 1e-3)]
)
def test_probe_is_the_reference_s(golden, n, l2, atol):
    probe = few_shot.fit_probe(golden["fewshot/x"][:n], golden["fewshot/y"][:n], 6, l2)
    np.testing.assert_allclose(probe.weights, golden[f"fewshot/n{n}_l2_{l2}/w"], atol=atol)
    found = few_shot.accuracy(probe, golden["fewshot/x_test"], golden["fewshot/y_test"])
    assert found == pytest.approx(golden[f"fewshot/n{n}_l2_{l2}/acc"], abs=1e-7)


def test_both_systems_give_the_same_weights():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 6)), rng.integers(0, 3, 7)  # 7 rows, 7 columns with the bias
    probe = few_shot.fit_probe(x, y, 3, 5.0)
    full = np.concatenate([(x - x.mean(0)) / (x.std(0) + 1e-5), np.full((7, 1), 100.0)], axis=1)
    targets = 2.0 * (np.arange(3) == y[:, None]) - 1
    other = full.T @ np.linalg.solve(full @ full.T + 5 * np.eye(7), targets)
    np.testing.assert_allclose(probe.weights, other, atol=1e-9)


def test_shots_are_drawn_per_class_by_seed():
    labels = np.repeat([0, 3, 5], [10, 10, 2])
    rows = few_shot.draw_shots(labels, 4, seed=1)
    assert np.bincount(labels[rows]).tolist() == [4, 0, 0, 4, 0, 2]
    np.testing.assert_array_equal(rows, few_shot.draw_shots(labels, 4, seed=1))
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(rows[:4], rng.permutation(10)[:4])
