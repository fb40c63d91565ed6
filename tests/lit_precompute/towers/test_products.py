"""Products of tokens: the same numbers in every form, and accelerators get the plain one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_precompute.towers import products

RNG = np.random.default_rng(0)


def drawn(*shape, dtype=jnp.bfloat16):
    return jnp.asarray(RNG.standard_normal(shape, np.float32), dtype)


@pytest.mark.parametrize("by_rows", [False, True])
def test_bfloat16_is_summed_in_float32_and_rounded_once(by_rows):
    x, kernel = drawn(3, 40, 300), drawn(300, 50)
    exact = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    found = jax.jit(partial(products.matmul, by_rows=by_rows))(x, kernel.T if by_rows else kernel)
    assert found.dtype == jnp.bfloat16
    rounded = jnp.asarray(exact.astype(np.float32), jnp.bfloat16)
    assert (
        np.mean(np.asarray(found) == np.asarray(rounded)) > 0.99
    )  # float32 sums in another order round apart
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize(("platform", "result"), [("cpu", "f32"), ("cuda", "bf16"), ("tpu", "bf16")])
def test_accelerators_get_the_product_as_it_is_written(platform, result):
    traced = jax.jit(products.matmul).trace(drawn(4, 8), drawn(8, 6))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert f"(tensor<4x8xbf16>, tensor<8x6xbf16>) -> tensor<4x6x{result}>" in text
    assert text.count("dot_general") == 1


def test_float32_is_left_alone():
    x, kernel = drawn(5, 7, dtype=jnp.float32), drawn(7, 9, dtype=jnp.float32)
    np.testing.assert_array_equal(jax.jit(products.matmul)(x, kernel), jax.jit(jnp.matmul)(x, kernel))


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 0.02)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention(dtype, tolerance, masked):
    query, key, value = drawn(2, 3, 4, 8), drawn(2, 5, 4, 8), drawn(2, 5, 4, 8)
    mask = np.array([[True] * 5, [True, True, False, True, False]])[:, None, None] if masked else None
    found = jax.jit(products.attention)(*(x.astype(dtype) for x in (query, key, value)), mask)
    q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
    scores = np.einsum("bqhe,blhe->bhql", q, k) / 8**0.5
    weights = np.exp(scores) * (1 if mask is None else mask)
    slow = np.einsum("bhql,blhe->bqhe", weights / weights.sum(-1, keepdims=True), v)
    assert found.dtype == dtype
    np.testing.assert_allclose(np.asarray(found, np.float64), slow, atol=tolerance)


def test_attention_of_scores_that_overflow():
    """Scores of hundreds: the largest takes all, and nothing is infinite."""
    query, key, value = (drawn(1, tokens, 2, 8, dtype=jnp.float32) for tokens in (3, 5, 5))
    found = np.asarray(jax.jit(products.attention)(query * 1e3, key, value))
    best = np.einsum("bqhe,blhe->bhql", query, key).argmax(-1)  # [B, heads, Q]
    for head in range(2):
        np.testing.assert_allclose(found[0, :, head], np.asarray(value)[0, best[0, head], head], atol=1e-3)
