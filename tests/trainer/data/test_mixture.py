"""Stores share a batch by their weights, and each keeps its own epochs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.mixture import batch_counts, make_mixture


@given(weights=st.lists(st.floats(0.1, 100), min_size=1, max_size=6), batch=st.integers(1, 1000))
def test_shares_are_within_one_of_the_exact_and_add_up(weights, batch):
    counts = batch_counts(weights, batch)
    assert sum(counts) == batch
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - batch * weight / sum(weights)) < 1


def test_every_batch_takes_the_same_share_of_a_store_and_an_epoch_of_it_each_row_once():
    mixture = make_mixture(["a", "b"], [30, 100], [3, 1], 16, seed=5)
    assert [sampler.batch_size for sampler in mixture.samplers] == [12, 4]
    steps = [mixture.rows(step) for step in range(50)]
    for epoch in range(25):  # two steps an epoch of the first: 24 rows of 30
        drawn = np.concatenate([steps[2 * epoch][0], steps[2 * epoch + 1][0]])
        assert len(np.unique(drawn)) == 24
    for epoch in range(2):  # 25 steps an epoch of the second: all 100
        drawn = np.concatenate([rows[1] for rows in steps[25 * epoch : 25 * epoch + 25]])
        assert np.sort(drawn).tolist() == list(range(100))


def test_without_weights_a_store_counts_as_many_as_it_has_images():
    mixture = make_mixture(["a", "b"], [100, 300], [], 40, seed=0)
    assert [sampler.batch_size for sampler in mixture.samplers] == [10, 30]
    assert mixture.num_rows == 400
    assert mixture.epochs(20) == pytest.approx(2.0)


def test_a_small_store_of_large_weight_makes_the_data_small():
    assert make_mixture(["a", "b"], [100, 300], [], 40, seed=0).effective_rows == pytest.approx(400)
    assert make_mixture(["a"], [123], [], 40, seed=0).effective_rows == pytest.approx(123)
    skewed = make_mixture(["a", "b"], [30, 1000], [3, 1], 16, seed=5)
    assert skewed.effective_rows == pytest.approx(1 / (0.75**2 / 30 + 0.25**2 / 1000))


def test_a_batch_of_everything_takes_every_image():
    mixture = make_mixture(["a", "b"], [5, 7], [], 0, seed=0)
    assert mixture.batch_size == 12
    assert [rows.tolist() for rows in mixture.rows(3)] == [list(range(5)), list(range(7))]


def test_stores_of_one_size_do_not_draw_alike():
    mixture = make_mixture(["a", "b"], [100, 100], [], 20, seed=0)
    assert not np.array_equal(*mixture.rows(0))


@pytest.mark.parametrize(
    ("rows", "weights", "batch", "said"),
    [
        ([100, 5], [1, 1], 20, "found 5 in b and a share of 10"),
        ([100, 5], [1000, 1], 20, "none for b in a batch of 20"),
        ([100, 5], [], 106, "--batch-size 105 or less"),
    ],
)
def test_shares_that_cannot_be_are_refused_naming_the_store(rows, weights, batch, said):
    with pytest.raises(ValueError, match=said):
        make_mixture(["a", "b"], rows, weights, batch, seed=0)
