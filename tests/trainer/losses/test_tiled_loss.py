"""The tiled loss: equal to the plain one, and small."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from trainer.losses import contrastive_loss, plain_loss, split_keys
from trainer.losses.duplicates import Keys
from trainer.losses.objectives import OBJECTIVES
from trainer.losses.tiled_loss import (
    backward_sweep,
    forward_sweep,
    start_gradients,
    through_normalise,
    tiled_loss,
)
from trainer.losses.tiles import Run, Settings

KINDS = ["softmax", "sigmoid"]


def batch(size, dim, seed=0):
    """Correlated pairs with many duplicates: (image, text, log_scale, bias), keys."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(size, dim)).astype(np.float32)
    text = (0.5 * image + rng.normal(size=(size, dim))).astype(np.float32)
    images, captions = rng.integers(0, size // 2, size), rng.integers(0, size, size)
    keys = Keys(jnp.arange(size), jnp.asarray(split_keys(images)), jnp.asarray(split_keys(captions)))
    return (image, text, jnp.float32(np.log(20)), jnp.float32(-10)), keys


def gradients(loss, argnums=(0, 1, 2, 3)):
    return jax.jit(jax.value_and_grad(loss, argnums))


def assert_like_plain(found, expected):
    """Loss within 1e-5 relative, every leaf within 1e-5 of its norm."""
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize("duplicates", ["mask", "positive", "ignore"])
@pytest.mark.parametrize("kind", KINDS)
def test_4096_pairs_equal_the_plain_loss(kind, duplicates):
    arguments, keys = batch(4096, 16)
    rest = {"keys": keys, "kind": kind, "duplicates": duplicates}
    leaves = (0, 1, 2, 3) if kind == "sigmoid" else (0, 1, 2)  # the softmax does not depend on the bias
    expected = gradients(partial(plain_loss, **rest), leaves)(*arguments)
    bias = arguments[3] if kind == "sigmoid" else jnp.float32(0)
    found = gradients(partial(tiled_loss, **rest, tile=1000), leaves)(*arguments[:3], bias)
    assert_like_plain(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_swept_apart_equal_the_whole(kind):
    """What devices in a ring do: each piece of images meets each piece of texts, statistics travel along."""
    (image, text, log_scale, bias), keys = batch(12, 4)
    objective, settings = OBJECTIVES[kind], Settings(kind, "mask", 3, "highest")
    pieces = [slice(0, 8), slice(8, 12)]

    def run(embeddings, piece):
        return Run(jnp.asarray(embeddings[piece]), jax.tree.map(lambda x: x[piece], keys))

    @jax.jit
    def value_and_gradients():
        rows, columns = ([objective.start(p.stop - p.start) for p in pieces] for _ in range(2))
        for i, j in ((0, 1), (1, 0), (0, 0), (1, 1)):
            rows[i], columns[j] = forward_sweep(
                settings, run(image, pieces[i]), run(text, pieces[j]), log_scale, bias, rows[i], columns[j]
            )
        value = sum(objective.total(*both) for both in zip(rows, columns, strict=True)) / 12
        row_sums = [start_gradients(image[p]) for p in pieces]
        column_sums = [start_gradients(text[p]).vectors for p in pieces]
        for i, j in ((1, 1), (0, 0), (0, 1), (1, 0)):
            row_sums[i], column_sums[j] = backward_sweep(
                settings, run(image, pieces[i]), run(text, pieces[j]), log_scale, bias,
                objective.residual(rows[i]), objective.residual(columns[j]), row_sums[i], column_sums[j],
            )  # fmt: skip
        weight = jnp.float32(1 / 12)
        d_image = [
            through_normalise(settings, run(image, p), r.vectors, weight)
            for p, r in zip(pieces, row_sums, strict=True)
        ]
        d_text = [
            through_normalise(settings, run(text, p), c, weight)
            for p, c in zip(pieces, column_sums, strict=True)
        ]
        return value, (
            jnp.concatenate(d_image),
            jnp.concatenate(d_text),
            sum(r.log_scale.sum() for r in row_sums) / 12,
        )

    plain = partial(plain_loss, keys=keys, kind=kind, duplicates="mask")
    assert_like_plain(value_and_gradients(), gradients(plain, (0, 1, 2))(image, text, log_scale, bias))


def shapes_inside(jaxpr):
    """Every array shape a traced function makes, in its loops too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from shapes_inside(inner)


@pytest.mark.parametrize("kind", KINDS)
def test_no_array_grows_with_the_square_of_the_batch(kind):
    """Nothing of B x B, nor of tile x B; and above its threshold `contrastive_loss` chooses the tiles itself."""
    size, dim, tile = 5000, 8, 1024
    image = jax.ShapeDtypeStruct((size, dim), jnp.float32)
    scalar, keys = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((size, 2), jnp.uint32)

    def loss(image, text, log_scale, bias, keys):
        return contrastive_loss(image, text, log_scale, bias, kind=kind, image_keys=keys, caption_keys=keys)

    traced = jax.make_jaxpr(jax.value_and_grad(loss, (0, 1, 2, 3)))(image, image, scalar, scalar, keys)
    shapes = set(shapes_inside(traced.jaxpr))
    assert (tile, tile) in shapes
    assert {shape for shape in shapes if size in shape} <= {(size,), (size, dim), (size, 2)}


def test_memory_beside_inputs_and_outputs():
    """At 262,144 x 256 an input is 256 MiB; the loss and its gradients need a tenth of one."""
    size, dim = 2**18, 256
    image = jax.ShapeDtypeStruct((size, dim), jnp.float32)
    scalar, words = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((size, 2), jnp.uint32)

    def loss(image, text, log_scale, bias, words):
        keys = Keys(jnp.arange(size), words, words)
        return tiled_loss(image, text, log_scale, bias, keys, "softmax", "mask", 1024)

    compiled = gradients(loss).lower(image, image, scalar, scalar, words).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 32 * 2**20


def test_locked_images_cost_no_gradient():
    """Asked for the text's gradient alone, as in training, XLA drops the image's product: 3 instead of 4."""
    arguments, keys = batch(64, 8)
    loss = partial(tiled_loss, keys=keys, kind="softmax", duplicates="mask", tile=16)

    def products(argnums):
        return gradients(loss, argnums).lower(*arguments).compile().as_text().count(" dot(")

    assert (products((0, 1, 2)), products((1, 2))) == (4, 3)


def test_stored_half_precision_images_are_read_as_they_are():
    (image, text, log_scale, bias), keys = batch(20, 8)
    half = image.astype(np.float16)
    loss = partial(tiled_loss, keys=keys, kind="softmax", duplicates="mask", tile=8)
    found = gradients(loss)(half, text, log_scale, bias)
    expected = gradients(loss)(half.astype(np.float32), text, log_scale, bias)
    assert found[1][0].dtype == jnp.float16
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[1][1], expected[1][1], atol=1e-7)
