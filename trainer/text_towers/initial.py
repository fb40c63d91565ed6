"""Initial values drawn in NumPy: the same on every device, at any depth without compiling a draw for each leaf."""

import jax
import numpy as np

# Standard deviation of a normal distribution cut at ±2, relative to that of the whole one.
_CUT_NORMAL_STD = 0.87962566103423978


def generator(key: jax.Array) -> np.random.Generator:
    """A NumPy generator seeded by a JAX key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())


def normal(random: np.random.Generator, shape: tuple[int, ...], std: float) -> np.ndarray:
    """float32, mean 0."""
    return random.standard_normal(shape, np.float32) * np.float32(std)


def xavier_uniform(
    random: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int
) -> np.ndarray:
    """float32, uniform in ±sqrt(6 / (fan_in + fan_out))."""
    bound = np.float32(np.sqrt(6 / (fan_in + fan_out)))
    return (random.random(shape, np.float32) * 2 - 1) * bound


def lecun_normal(random: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """float32 [fan_in, fan_out], normal cut at two standard deviations, of variance 1 / fan_in."""
    values = random.standard_normal((fan_in, fan_out), np.float32)
    while (outside := np.abs(values) > 2).any():
        values[outside] = random.standard_normal(int(outside.sum()), np.float32)
    return values * np.float32(fan_in**-0.5 / _CUT_NORMAL_STD)
