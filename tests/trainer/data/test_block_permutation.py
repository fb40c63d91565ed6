"""A shuffle of more than fits into memory: every row once, in runs, well mixed, and nothing of its size is held."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.block_permutation import permute_in_blocks
from trainer.data.sampler import Sampler


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 900), window=st.integers(1, 300), block=st.integers(1, 20), key=st.integers(0, 2**64)
)
def test_every_row_comes_exactly_once(size, window, block, key):
    found = permute_in_blocks(np.arange(size), size, key, max(window, block), block)
    assert sorted(found.tolist()) == list(range(size))


def test_a_position_gives_the_same_row_in_whatever_company():
    whole = permute_in_blocks(np.arange(5000), 5000, 9, 640)
    some = np.random.default_rng(0).permutation(5000)[:300]
    np.testing.assert_array_equal(permute_in_blocks(some, 5000, 9, 640), whole[some])


def test_what_is_read_over_a_window_is_whole_blocks():
    """Of 20,000 rows a window of 1,280 touches about 1,280 / 64 blocks, not as many as it has rows."""
    found = permute_in_blocks(np.arange(20_000), 20_000, 4, 1280)
    for start in range(0, 19_000, 1280):
        rows = np.sort(found[start : start + 1280])
        runs = 1 + int((np.diff(rows) > 1).sum())
        assert runs <= 1280 // 64 + 1  # the seam of the turned sequence makes one more


def test_a_batch_sees_rows_of_many_blocks_from_everywhere():
    batch = permute_in_blocks(np.arange(256), 1_000_000, 4, 65_536)
    blocks = np.unique(batch // 64)
    assert len(blocks) > 200
    assert np.histogram(batch, bins=4, range=(0, 1_000_000))[0].min() > 40


def test_the_order_inside_a_window_does_not_follow_the_blocks():
    found = permute_in_blocks(np.arange(1280), 20_000, 4, 1280)
    assert (np.diff(found) == 1).mean() < 0.02


def test_rows_left_out_at_the_end_of_an_epoch_are_others_each_time():
    """The remainder of an epoch, and the rows that make no whole block, are not always the same."""
    last = [set(permute_in_blocks(np.arange(9990, 10_007), 10_007, key, 1024).tolist()) for key in range(300)]
    times = np.bincount([row for rows in last for row in rows], minlength=10_007)
    assert times.max() <= 6


def test_a_billion_rows_need_memory_for_the_batch_alone():
    sampler = Sampler(10**9, 32_768, seed=0)
    sampler.rows(0)
    tracemalloc.start()
    rows = sampler.rows(20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(rows)) == 32_768
    assert rows.min() >= 0
    assert rows.max() < 10**9
    assert peak < 16 << 20


def test_an_epoch_of_a_sampler_that_shuffles_in_blocks_draws_each_row_once():
    sampler = Sampler(5000, 128, seed=2, window=1024)
    drawn = np.concatenate([sampler.rows(step) for step in range(sampler.steps_per_epoch)])
    assert len(set(drawn.tolist())) == len(drawn) == 5000 - sampler.remainder


@pytest.mark.parametrize("window", [10**6, 1024])
def test_epochs_follow_different_orders(window):
    sampler = Sampler(5000, 1000, seed=2, window=window)
    first, second = sampler.rows(0), sampler.rows(sampler.steps_per_epoch)
    assert len(np.intersect1d(first, second)) < 400
