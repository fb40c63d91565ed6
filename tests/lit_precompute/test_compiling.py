"""What processors are told, accelerators are not, and the user's own options win over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_precompute.compiling import ON_PROCESSORS, compiler_options
from lit_precompute.config import TowerConfig
from lit_precompute.embedder import Embedder
from lit_precompute.towers import load_tower
from trainer import compiling as trainers

(NAME,) = ON_PROCESSORS["float32"]


def test_float32_on_processors_alone_has_options(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    options = compiler_options("cpu", "float32")
    assert options in ({NAME: ""}, {})  # an XLA of another age may not know it
    assert compiler_options("cuda", "float32") == compiler_options("cpu", "bfloat16") == {}
    assert trainers.compiler_options("float32") == trainers.compiler_options("float32", "cpu") == options
    assert trainers.compiler_options("float32", "tpu") == trainers.compiler_options("bfloat16") == {}
    monkeypatch.setenv("XLA_FLAGS", f"--xla_cpu_multi_thread_eigen=true --{NAME}=individual_dot")
    assert compiler_options("cpu", "float32") == trainers.compiler_options("float32") == {}


def test_what_this_xla_does_not_know_is_left_out(monkeypatch):
    for module, options in (
        (compiler_options.__globals__, ("cpu", "float32")),
        (vars(trainers), ("float32",)),
    ):
        monkeypatch.setitem(module, "ON_PROCESSORS", {"float32": {"xla_cpu_no_such_option": "1"}})
        assert module["compiler_options"](*options) == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bits_do_not_depend_on_the_batch(dtype):
    tower = load_tower(TowerConfig("vit-mu-16", "random:0", image_size=64, compute_dtype=dtype))
    images = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)

    def embedded(batch_size, images):
        stream = Embedder(tower, batch_size).stream((None, image) for image in images)
        return np.stack([vector for _, vector in stream])

    by_nine = embedded(9, images)
    np.testing.assert_array_equal(embedded(4, images), by_nine)
    np.testing.assert_array_equal(embedded(9, images[5:]), by_nine[5:])
    if dtype == "float32" and compiler_options("cpu", dtype):
        embedder = Embedder(tower, 4)
        program = embedder._forward.lower(tower.params, jnp.asarray(images[:4])).compile().as_text()
        assert "dot(" in program
        assert "ynn" not in program


def test_options_reach_the_program():
    """The option has an effect, or all this is idle."""
    options = compiler_options("cpu", "float32")
    x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    plain, told = (jax.jit(jnp.matmul).lower(x, x).compile(one).as_text() for one in ({}, options))
    assert not options or ("ynn" in plain and "ynn" not in told)
