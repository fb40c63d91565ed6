"""Products of tokens and their gradients: the same numbers in every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.text_towers.products import Dense, DenseGeneral, as_trained, laid_out

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda **options: Dense(6, **options), (3, 5, 8)),
        (lambda **options: DenseGeneral((2, 3), **options), (3, 5, 8)),
        (lambda **options: DenseGeneral(6, axis=(-2, -1), **options), (3, 5, 2, 4)),
    ],
)
def test_values_and_gradients_are_those_of_flax(layer, shape):
    x = jnp.asarray(RNG.standard_normal(shape, np.float32))
    ours = layer(dtype=jnp.bfloat16)
    plain = ours.clone(dot_general=None)
    params = ours.init(jax.random.key(0), x)

    def value_and_gradients(module):
        def loss(params, x):
            y = module.apply(params, x)
            assert y.dtype == jnp.bfloat16
            return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

        (_, y), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (y, gradients))

    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=0.02, atol=0.02),
        value_and_gradients(ours),
        value_and_gradients(plain),
    )


def test_every_product_of_a_step_is_of_bfloat16_summed_in_float32():
    """Forwards, and both backwards; an accelerator's program has none such."""
    x, module = jnp.ones((4, 8)), Dense(6, dtype=jnp.bfloat16)
    params = module.init(jax.random.key(0), x)
    step = jax.jit(jax.grad(lambda params, x: module.apply(params, x).astype(jnp.float32).sum(), (0, 1)))
    traced = step.trace(params, x)
    on_processors, elsewhere = (
        [line for line in text.split("\n") if "dot_general" in line]
        for text in (traced.lower(lowering_platforms=(one,)).as_text() for one in ("cpu", "cuda"))
    )
    assert on_processors
    assert all(line.count("bf16>") == 2 and "xf32>" in line for line in on_processors)
    assert elsewhere
    assert not any("xf32>" in line for line in elsewhere)


def test_kernels_are_laid_out_for_inference_but_not_the_heads():
    kernel, wide = RNG.standard_normal((3, 5), np.float32), RNG.standard_normal((3, 2, 4), np.float32)
    params = {
        "backbone": {"dense": {"kernel": kernel, "bias": kernel[0]}, "heads": {"kernel": wide}},
        "head": {"kernel": kernel},
    }
    found = laid_out(params)
    assert found["backbone"]["dense"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["backbone"]["dense"]["kernel"], kernel.astype(jnp.bfloat16).T)
    again = as_trained(found)
    np.testing.assert_array_equal(again["backbone"]["dense"]["kernel"], kernel.astype(jnp.bfloat16))
    for one in (found, again):
        np.testing.assert_array_equal(one["backbone"]["heads"]["kernel"], wide)
        np.testing.assert_array_equal(one["backbone"]["dense"]["bias"], kernel[0])
        np.testing.assert_array_equal(one["head"]["kernel"], kernel)
