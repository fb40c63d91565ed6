"""Dropout masks that follow from the key and the row's place in the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np

from trainer.text_towers.row_dropout import row_dropout, row_keys

KEY = jax.random.key(7)


def test_a_cut_batch_sees_the_masks_of_the_whole() -> None:
    x = jnp.ones((6, 5, 3))
    whole = row_dropout(x, row_keys(KEY, 6), 2, 0.4)
    parts = [row_dropout(x[i : i + n], row_keys(KEY, n, i), 2, 0.4) for i, n in ((0, 2), (2, 2), (4, 2))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_rows_places_and_keys_differ() -> None:
    x = jnp.ones((2, 64))
    one = row_dropout(x, row_keys(KEY, 2), 0, 0.5)
    assert (one[0] != one[1]).any()
    assert (one != row_dropout(x, row_keys(KEY, 2), 1, 0.5)).any()
    assert (one != row_dropout(x, row_keys(jax.random.key(8), 2), 0, 0.5)).any()


def test_kept_values_are_scaled() -> None:
    x = jnp.ones((50, 400))
    dropped = np.asarray(row_dropout(x, row_keys(KEY, 50), 0, 0.25))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(dropped.mean() - 1) < 0.02


def test_no_key_and_no_rate_leave_values_alone() -> None:
    x = jnp.ones((2, 3))
    assert row_dropout(x, row_keys(None, 2), 0, 0.5) is x
    assert row_dropout(x, row_keys(KEY, 2), 0, 0.0) is x
