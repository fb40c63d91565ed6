"""A batch in microbatches: the gradient of the whole, the activations of a piece."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from trainer.losses import contrastive_loss
from trainer.microbatch import Cut, in_microbatches
from trainer.text_towers.row_dropout import row_dropout, row_keys

B, L, D, WIDTH = 10, 4, 6, 16


def embedder(dropout):
    """A bag of words under a hidden layer: a text tower that compiles in no time."""

    def embed(params, tokens, key, row_offset=0):
        keys = row_keys(key if dropout else None, tokens.shape[0], row_offset)
        hidden = row_dropout(jnp.tanh(params["words"][tokens] @ params["hidden"]), keys, 0, 0.3)
        return hidden.mean(axis=1) @ params["head"]

    return embed


def parameters():
    random = np.random.default_rng(0)
    shapes = {"words": (12, 8), "hidden": (8, WIDTH), "head": (WIDTH, D)}
    tower = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {"tower": tower, "log_scale": jnp.float32(2.0), "bias": jnp.float32(-2.0)}


def batch():
    random = np.random.default_rng(1)
    return random.normal(size=(B, D)).astype(np.float32), random.integers(0, 12, (B, L), dtype=np.int32)


def value_and_gradients(embed, kind):
    image, tokens = batch()

    def loss(params, key):
        text = embed(params["tower"], tokens, key)
        return contrastive_loss(
            image, text, params["log_scale"], params["bias"], kind=kind, duplicates="ignore"
        )

    return jax.jit(jax.value_and_grad(loss))(parameters(), jax.random.key(5))


@cache
def whole(kind, dropout):
    """What the batch in one piece gives."""
    return value_and_gradients(embedder(dropout), kind)


@pytest.mark.parametrize(
    ("kind", "dropout", "size"),
    [
        ("softmax", False, 1),
        ("softmax", False, 4),
        ("softmax", True, 4),
        ("softmax", True, 9),
        ("softmax", True, B),
        ("sigmoid", False, 5),
        ("sigmoid", True, 4),
    ],
)
def test_the_gradient_is_that_of_the_whole_batch(kind, dropout, size):
    """Sizes that divide 10, one that gives three of 4 with two rows twice, one that is evened out to two of 5."""
    found = value_and_gradients(in_microbatches(embedder(dropout), size), kind)
    expected = whole(kind, dropout)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for (path, ours), theirs in zip(
        jax.tree.leaves_with_path(found[1]), jax.tree.leaves(expected[1]), strict=True
    ):
        assert np.linalg.norm(ours - theirs) <= 1e-6 * np.linalg.norm(theirs), jax.tree_util.keystr(path)


def test_dropout_is_really_on():
    """Else the equalities above would show little."""
    assert not np.allclose(whole("softmax", True)[0], whole("softmax", False)[0], rtol=1e-3)


@pytest.mark.parametrize(
    ("rows", "size", "starts", "side"),
    [
        (10, 5, [0, 5], 5),
        (10, 4, [0, 4, 6], 4),  # rows 6 and 7 come twice
        (10, 9, [0, 5], 5),  # not nine and then nine again
        (10, 1, list(range(10)), 1),
        (32_768, 1_000, [993 * i for i in range(32)] + [32_768 - 993], 993),
    ],
)
def test_microbatches_cover_every_row_once(rows, size, starts, side):
    cut = Cut.evenly(rows, size)
    assert (cut.side, cut.pieces) == (side, len(starts))
    assert [int(cut.start(i)) for i in range(cut.pieces)] == starts
    seen = np.concatenate([start + np.flatnonzero(cut.fresh(i)) for i, start in enumerate(starts)])
    np.testing.assert_array_equal(seen, np.arange(rows))


def shapes_inside(jaxpr):
    """Every array shape a traced function makes, in its loops too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from shapes_inside(inner)


def test_activations_exist_for_one_microbatch_only():
    embed = in_microbatches(embedder(dropout=True), 3)
    tokens = jax.ShapeDtypeStruct((B, L), jnp.int32)

    def weighted(params, tokens, weights):
        return jnp.sum(embed(params, tokens, jax.random.key(0)) * weights)

    weights = jax.ShapeDtypeStruct((B, D), jnp.float32)
    traced = jax.make_jaxpr(jax.value_and_grad(weighted))(parameters()["tower"], tokens, weights)
    shapes = set(shapes_inside(traced.jaxpr))
    assert (3, L, WIDTH) in shapes
    assert {shape for shape in shapes if B in shape} <= {(B, D), (B, L)}


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="microbatch_size: must be at least 1"):
        in_microbatches(lambda params, text, key, row_offset=0: text, 0)
