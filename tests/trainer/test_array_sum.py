"""A checksum that sees every bit, and not how an array lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.array_sum import array_sum, describe


def twin(x):
    """The same in plain NumPy, element by element."""

    def mix(x):
        x = ((x ^ (x >> 16)) * 0x85EBCA6B) % 2**32
        x = ((x ^ (x >> 13)) * 0xC2B2AE35) % 2**32
        return x ^ (x >> 16)

    bits = np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}").reshape(-1)
    return sum(mix(int(one) ^ mix((place + 0x9E3779B9) % 2**32)) for place, one in enumerate(bits)) % 2**32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5)])
def test_equals_its_twin(dtype, shape):
    x = np.asarray(jnp.asarray(np.random.default_rng(0).normal(size=shape) * 3).astype(dtype))
    assert int(array_sum(jnp.asarray(x))) == twin(x)


def test_every_change_shows():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    swapped = x[:, [1, 0, 2, 3]]
    flipped = x.copy()
    flipped.view(np.uint32)[2, 3] ^= 1
    negative = np.where(x == 0, -0.0, x).astype(np.float32)  # equal as numbers, not as bits
    sums = [int(array_sum(jnp.asarray(one))) for one in (x, swapped, flipped, negative, x.reshape(4, 3).T)]
    assert len(set(sums)) == len(sums)


def test_describes_a_tree_by_path():
    found = describe({"a": {"b": np.ones((2, 3), np.float32)}, "c": np.int32(4)})
    assert found["['a']['b']"] == {"shape": [2, 3], "sum": twin(np.ones((2, 3), np.float32))}
    assert found["['c']"]["shape"] == []
    assert jax.tree.leaves(found)
