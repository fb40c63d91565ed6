"""Large arrays of the state are cut over the devices where that is asked for, and the plan knows it."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from trainer.devices.mesh import DATA
from trainer.devices.placement import bytes_on_a_device, place_of, places

MESH = AbstractMesh((4,), (DATA,))


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((), P()),
        ((64,), P()),  # not worth it
        ((4096,), P(DATA)),
        ((64, 256), P(None, DATA)),  # the longest axis
        ((768, 30_522), P(DATA)),  # the longest that four devices can share
        ((31, 257), P()),  # none can be shared evenly
    ],
)
def test_where_an_array_lies(shape, spec):
    assert place_of(MESH, shape, cut=True).spec == spec
    assert place_of(MESH, shape, cut=False).spec == P()


def test_what_a_device_holds():
    """Of BERT-base's word table a quarter, of a bias all."""
    tree = {
        "word": jax.ShapeDtypeStruct((30_522, 768), jnp.float32),
        "bias": jax.ShapeDtypeStruct((768,), "f4"),
    }

    def held(cut):
        where = places(MESH, tree, cut)
        return bytes_on_a_device(
            jax.tree.map(lambda one, at: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=at), tree, where)
        )

    assert held(cut=False) == bytes_on_a_device(tree) == 4 * (30_522 * 768 + 768)
    assert held(cut=True) == 4 * (30_522 * 768 // 4 + 768)
