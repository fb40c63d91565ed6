"""Which tokens are padding, and means over the others."""

import jax.numpy as jnp
import numpy as np

from trainer.text_towers.pooling import masked_mean, real_tokens


def test_only_the_run_of_pads_at_the_end_is_padding() -> None:
    mask = real_tokens(jnp.array([[2, 5, 0, 3, 0, 0], [2, 3, 0, 0, 0, 0], [2, 4, 5, 6, 7, 3], [0] * 6]), 0)
    assert mask.sum(axis=1).tolist() == [4, 2, 6, 0]
    assert mask[0].tolist() == [True, True, True, True, False, False]


def test_the_mean_leaves_padding_out() -> None:
    hidden = jnp.arange(12, dtype=jnp.float32).reshape(2, 3, 2)
    mean = masked_mean(hidden, jnp.array([[True, True, False], [False] * 3]))
    np.testing.assert_array_equal(mean, [[1, 2], [0, 0]])
