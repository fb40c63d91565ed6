"""Initial values of the distributions they are said to have."""

import jax
import numpy as np

from trainer.text_towers.initial import generator, lecun_normal, normal, xavier_uniform


def test_the_key_decides_the_draw() -> None:
    draws = [generator(jax.random.key(seed)).random(4) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()
    np.testing.assert_array_equal(generator(jax.random.PRNGKey(1)).random(4), draws[0])


def test_spreads() -> None:
    random = np.random.default_rng(0)
    wide = normal(random, (300, 300), 0.5)
    assert wide.dtype == np.float32
    assert abs(wide.std() - 0.5) < 0.01
    even = xavier_uniform(random, (300, 2, 50), 300, 100)
    assert even.dtype == np.float32
    bound = (6 / 400) ** 0.5
    assert np.abs(even).max() <= bound
    assert abs(even.std() - bound / 3**0.5) < 0.01
    cut = lecun_normal(random, 400, 300)
    assert cut.dtype == np.float32
    assert abs(cut.std() * 20 - 1) < 0.01
    assert np.abs(cut).max() * 20 < 2 / 0.8796 + 1e-4
