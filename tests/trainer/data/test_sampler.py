"""The sampler draws each row once an epoch, and the same rows for the same step for ever."""

import hashlib
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.holdout import held_out
from trainer.data.keyed_random import below, mix, permute, splitmix64
from trainer.data.sampler import Sampler


def test_splitmix64_gives_the_published_sequence():
    # The generator seeded with 1234567 scrambles 1234567 + k * golden gamma; `splitmix64` adds the first gamma.
    gamma, seed = 0x9E3779B97F4A7C15, 1234567
    states = np.array([(seed + k * gamma) % 2**64 for k in range(3)], np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert splitmix64(states).tolist() == expected


@given(size=st.integers(1, 300), key=st.integers(-(2**63), 2**64))
def test_permute_is_a_permutation(size, key):
    assert sorted(permute(np.arange(size), size, key)) == list(range(size))


@settings(deadline=None)
@given(rows=st.integers(1, 200), batch=st.integers(1, 200), seed=st.integers(0, 2**40))
def test_an_epoch_draws_each_row_at_most_once(rows, batch, seed):
    sampler = Sampler(rows, min(batch, rows), seed)
    drawn = np.concatenate([sampler.rows(step) for step in range(sampler.steps_per_epoch)])
    assert len(set(drawn.tolist())) == len(drawn) == rows - sampler.remainder
    assert drawn.min() >= 0
    assert drawn.max() < rows


def test_the_same_step_gives_the_same_rows_in_any_order_of_asking():
    sampler, again = Sampler(1000, 64, seed=3), Sampler(1000, 64, seed=3)
    late = sampler.rows(77)
    for step in range(5):
        again.rows(step)
    np.testing.assert_array_equal(again.rows(77), late)


def test_what_was_drawn_yesterday_is_drawn_today():
    """A run that goes on under a later version sees the batches it would have seen."""
    drawn = hashlib.sha256()
    for rows, batch, window in (
        (1000, 64, 1 << 22),
        (100_000, 999, 4096),
        (17, 17, 1024),
        (1 << 33, 512, 1 << 22),
    ):
        sampler = Sampler(rows, batch, seed=7, stream=2, window=window)
        for step in (0, 1, 5, 1000):
            row = sampler.rows(step)
            for numbers in (
                row,
                sampler.caption_choice(step, row, row % 5 + 1),
                sampler.kind_choice(step, row, row % 3 + 1),
                sampler.view_choice(step, row, 3),
                sampler.template_choice(step, row, 80),
                sampler.template_choice(step, row, 1),
                sampler.caption_choice(step, row, row * 0 + 1),
            ):
                drawn.update(numbers.tobytes())
    assert drawn.hexdigest() == "043426eaa280bc46a1887c4a3bf125ea2374c9f1978285b70fbbc185f7419e11"


def test_epochs_and_seeds_differ():
    first = Sampler(1000, 100, seed=0)
    epoch = first.steps_per_epoch
    assert not np.array_equal(first.rows(0), first.rows(epoch))
    assert not np.array_equal(first.rows(0), Sampler(1000, 100, seed=1).rows(0))
    assert not np.array_equal(first.rows(0), Sampler(1000, 100, seed=0, stream=1).rows(0))
    assert not np.array_equal(first.rows(0), np.arange(100))


@pytest.mark.parametrize("size", [5, 7, 16])
def test_every_row_comes_to_every_place_about_equally_often(size):
    draws = np.array([permute(np.arange(size), size, int(mix(seed, 1)[0])) for seed in range(4000)])
    for place in range(size):
        counts = np.bincount(draws[:, place], minlength=size)
        chi_square = ((counts - 4000 / size) ** 2 / (4000 / size)).sum()
        assert chi_square < 3 * size + 20


def test_every_pair_of_rows_meets_in_a_batch_about_equally_often():
    meetings = np.zeros((12, 12), int)
    for seed in range(3000):
        rows = Sampler(12, 4, seed).rows(0)
        meetings[np.ix_(rows, rows)] += 1
    apart = meetings[~np.eye(12, dtype=bool)]
    assert abs(np.diag(meetings) - 1000).max() < 110
    assert abs(apart - 3000 * 4 * 3 / (12 * 11)).max() < 75


def test_a_batch_is_in_ascending_order():
    rows = Sampler(1000, 64, seed=0).rows(3)
    assert (np.diff(rows) > 0).all()


def test_one_choice_for_a_batch_is_the_same_in_every_store():
    choices = [[Sampler(10, 5, 7, stream).batch_choice(step, 3) for step in range(50)] for stream in (0, 1)]
    assert choices[0] == choices[1]
    assert set(choices[0]) == {0, 1, 2}


def test_a_billion_rows_cost_only_the_batch():
    sampler = Sampler(10**9, 32_768, seed=0)
    start = time.perf_counter()
    rows = sampler.rows(20_000)
    assert time.perf_counter() - start < 1.0
    assert len(np.unique(rows)) == 32_768
    assert 0.45e9 < rows.mean() < 0.55e9
    assert rows.max() < 10**9


def test_a_batch_larger_than_the_data_is_refused_with_advice():
    with pytest.raises(ValueError, match="--batch-size 10 or less"):
        Sampler(10, 11, seed=0)


def test_captions_and_templates_are_drawn_evenly_and_apart():
    sampler, rows = Sampler(6000, 6000, seed=0), np.arange(6000)
    captions = sampler.caption_choice(4, rows, np.full(6000, 3))
    templates = sampler.template_choice(4, rows, 3)
    for choice in (captions, templates):
        assert np.bincount(choice, minlength=3).min() > 1850
    assert np.bincount(captions * 3 + templates, minlength=9).min() > 550
    assert not np.array_equal(captions, sampler.caption_choice(5, rows, np.full(6000, 3)))


def test_a_choice_stays_below_its_own_count():
    counts = np.array([1, 2, 3, 4, 1])
    for step in range(50):
        choice = Sampler(5, 5, seed=1).caption_choice(step, np.arange(5), counts)
        assert (choice < counts).all()
        assert (choice >= 0).all()


def test_below_spans_its_range():
    assert set(below(mix(7, np.arange(1000)), 4).tolist()) == {0, 1, 2, 3}


def test_the_hold_out_has_its_share_and_does_not_move_when_data_is_added():
    keys = mix(99, np.arange(20_000))
    fifth = held_out(keys, 0.2)
    assert 0.19 < fifth.mean() < 0.21
    np.testing.assert_array_equal(held_out(keys[:500], 0.2), fifth[:500])
    assert (held_out(keys, 0.3) >= fifth).all()
    assert not held_out(keys, 0.0).any()
