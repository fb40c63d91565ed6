"""The losses against the reference's numbers, a slow twin in float64, and what must hold of any batch."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.losses import contrastive_loss, in_batch_recall, l2_normalise, split_keys

CASES = [
    "softmax_t10",
    "softmax_t14.3",
    "softmax_t100",
    "sigmoid_t10_b-10",
    "sigmoid_t10_b-2.71",
    "sigmoid_t100_b-12",
]
KINDS = ["softmax", "sigmoid"]
MODES = ["mask", "positive", "ignore"]
FORMS = [None, 3]  # plain, and tiles that do not divide the batch

# Pairs 0 and 2 share the image, 2 and 5 the caption (so 0 and 5 are no duplicates), 3 and 4 both.
IMAGES = np.array([7, 1, 7, 3, 3, 5, 6], np.uint64) << np.uint64(33)
CAPTIONS = np.array([1, 2, 9, 4, 4, 9, 8], np.uint64)


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "losses" / "losses.npz")


def are_duplicates(i, j, image_keys, caption_keys):
    """P_ij: another pair with the same image or the same caption."""
    return i != j and (image_keys[i] == image_keys[j] or caption_keys[i] == caption_keys[j])


def unit(x):
    """x / (||x|| + 1e-8)."""
    return [value / (math.sqrt(sum(v * v for v in x)) + 1e-8) for value in x]


def slow_loss(image, text, log_scale, bias, kind, image_keys, caption_keys, duplicates):
    """The loss of raw embeddings [B, D] as a float.

    image_keys and caption_keys are sequences of B ordinary numbers; duplicates is "mask", "positive" or "ignore".
    """
    size = len(image)
    z, w = [unit(x) for x in image.tolist()], [unit(x) for x in text.tolist()]
    bias = bias if kind == "sigmoid" else 0.0
    logits = [[math.exp(log_scale) * np.dot(z[i], w[j]) + bias for j in range(size)] for i in range(size)]
    twins = [
        [j for j in range(size) if duplicates != "ignore" and are_duplicates(i, j, image_keys, caption_keys)]
        for i in range(size)
    ]
    total = 0.0
    for i in range(size):
        left_out = twins[i] if duplicates == "mask" else []
        positives = [i, *twins[i]] if duplicates == "positive" else [i]
        kept = [j for j in range(size) if j not in left_out]
        if kind == "sigmoid":
            for j in kept:
                label = 1 if j in positives else -1
                total += math.log1p(math.exp(-label * logits[i][j]))
            continue
        # The relation is symmetric, so row i and column i leave out and aim at the same indices.
        for line in ([logits[i][j] for j in range(size)], [logits[j][i] for j in range(size)]):
            partition = math.log(sum(math.exp(line[j]) for j in kept))
            total += 0.5 * (partition - sum(line[j] for j in positives) / len(positives))
    return total / size


def slow_gradient(image, text, log_scale, bias, *rest, step=1e-6):
    """Central differences of `slow_loss` with respect to image, text, log_scale and bias."""
    arguments = [np.array(x, np.float64) for x in (image, text, log_scale, bias)]
    gradients = [np.zeros_like(x) for x in arguments]
    for which, argument in enumerate(arguments):
        for place in np.ndindex(argument.shape):
            values = []
            for sign in (1, -1):
                moved = [x.copy() for x in arguments]
                moved[which][place] += sign * step
                values.append(slow_loss(*moved[:2], float(moved[2]), float(moved[3]), *rest))
            gradients[which][place] = (values[0] - values[1]) / (2 * step)
    return gradients


def small_batch(seed=0, size=7, dim=4):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(size, dim))
    return image.astype(np.float32), (image + rng.normal(size=(size, dim))).astype(np.float32)


@partial(jax.jit, static_argnames=("kind", "duplicates", "tile"))
def evaluate(image, text, log_scale, bias, keys, *, kind, duplicates, tile):
    """The loss and its gradients with respect to image, text, log_scale and bias; compiled once per shape and form."""

    def loss(*arguments):
        return contrastive_loss(*arguments, kind=kind, duplicates=duplicates, tile=tile, **keys)

    return jax.value_and_grad(loss, (0, 1, 2, 3))(image, text, jnp.float32(log_scale), jnp.float32(bias))


def keys_of(images=IMAGES, captions=CAPTIONS):
    return {"image_keys": split_keys(images), "caption_keys": split_keys(captions)}


@pytest.mark.parametrize("tile", [None, 24])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(golden, name, tile):
    log_scale, bias = golden[f"{name}/t_param"][0], golden[f"{name}/b"][0]
    form = {"kind": name.split("_")[0], "duplicates": "ignore", "tile": tile}
    value, gradients = evaluate(golden["in/raw_img"], golden["in/raw_txt"], log_scale, bias, {}, **form)
    np.testing.assert_allclose(value, golden[f"{name}/loss"], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(gradients[1], golden[f"{name}/g_raw_txt"], rtol=1e-5, atol=2e-6)
    atol = 2e-4 if "t100" in name else 1e-5
    np.testing.assert_allclose(gradients[2], golden[f"{name}/g_t_param"][0], rtol=1e-5, atol=atol)
    np.testing.assert_allclose(gradients[3], golden[f"{name}/g_b"][0], rtol=1e-5, atol=1e-5)

    # The reference's other gradients stop at the unit vectors z; through z / ||z|| they lose their part along z.
    z, w = golden["in/zimg"], golden["in/ztxt"]
    _, gradients = evaluate(z, w, log_scale, bias, {}, **form)
    for found, vectors, leaf in ((gradients[0], z, "g_zimg"), (gradients[1], w, "g_ztxt")):
        expected = golden[f"{name}/{leaf}"]
        expected = expected - vectors * np.sum(expected * vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=3e-5 if "t100" in name else 3e-6)


@pytest.mark.parametrize("name", CASES[:3])
def test_recall_equals_the_reference(golden, name):
    found = in_batch_recall(golden["in/raw_img"], golden["in/raw_txt"])
    assert float(found["i2t"]) == float(golden[f"{name}/metrics/i2t_acc"])
    assert float(found["t2i"]) == float(golden[f"{name}/metrics/t2i_acc"])


@pytest.mark.parametrize("tile", FORMS)
@pytest.mark.parametrize("duplicates", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_slow_twin(kind, duplicates, tile):
    image, text = small_batch()
    log_scale, bias = np.log(5.0), -1.5
    slow = (kind, IMAGES, CAPTIONS, duplicates)
    form = {"kind": kind, "duplicates": duplicates, "tile": tile}
    value, gradients = evaluate(image, text, log_scale, bias, keys_of(), **form)
    np.testing.assert_allclose(value, slow_loss(image, text, log_scale, bias, *slow), rtol=1e-6)
    expected = slow_gradient(image, text, log_scale, bias, *slow)
    for found, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("only", ["image_keys", "caption_keys"])
def test_one_kind_of_key_is_enough(only):
    image, text = small_batch()
    nobody = np.arange(7)
    slow = slow_loss(
        image, text, 1.0, 0.0, "softmax",
        IMAGES if only == "image_keys" else nobody, CAPTIONS if only == "caption_keys" else nobody, "mask",
    )  # fmt: skip
    found = contrastive_loss(image, text, 1.0, kind="softmax", **{only: keys_of()[only]})
    np.testing.assert_allclose(found, slow, rtol=1e-6)


@pytest.mark.parametrize("duplicates", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_shuffling_pairs_together_changes_nothing(kind, duplicates):
    image, text = small_batch()
    order = np.random.default_rng(3).permutation(7)
    form = {"kind": kind, "duplicates": duplicates, "tile": None}
    value, gradients = evaluate(image, text, 1.0, -2.0, keys_of(), **form)
    keys = keys_of(IMAGES[order], CAPTIONS[order])
    shuffled, moved = evaluate(image[order], text[order], 1.0, -2.0, keys, **form)
    np.testing.assert_allclose(shuffled, value, rtol=1e-6)
    np.testing.assert_allclose(moved[1], gradients[1][order], rtol=1e-4, atol=1e-6)


def caption_seen_twice():
    """Two pictures of one caption, perfectly aligned, and a third pair far away."""
    image = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    text = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], np.float32)
    return image, text, {"caption_keys": split_keys([5, 5, 6])}


@pytest.mark.parametrize("kind", KINDS)
def test_the_naive_loss_pushes_a_caption_off_a_picture_it_describes(kind):
    """Texts 0 and 1 are the same words, halfway between images 0 and 1, and both pictures show them.

    Gradient descent moves text 0 by -g. Naively it leaves image 1 for image 0, as if image 1 showed something else;
    with duplicates as positives it has no reason to prefer either.
    """
    image, text, keys = caption_seen_twice()

    def drift(duplicates):
        """How much faster text 0 moves towards its own image than towards the other one of the same caption."""
        form = {"kind": kind, "duplicates": duplicates, "tile": None}
        step = -np.asarray(evaluate(image, text, np.log(10.0), -2.0, keys, **form)[1][1][0])
        return step @ image[0] - step @ image[1], step @ image[1]

    naive, away = drift("ignore")
    assert naive > 0.5
    assert away < -0.25
    np.testing.assert_allclose(drift("positive")[0], 0.0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_duplicates_have_no_logit_gradient(kind):
    """Row 0 of a masked batch does not feel image 1: moving that image changes nothing of caption 0's gradient."""
    image, text, keys = caption_seen_twice()

    def gradient_of_text_0(duplicates, image):
        form = {"kind": kind, "duplicates": duplicates, "tile": None}
        return np.asarray(evaluate(image, text, np.log(10.0), -2.0, keys, **form)[1][1][0])

    moved = image.copy()
    moved[1] = [0.3, -0.5, 0.2]
    np.testing.assert_allclose(
        gradient_of_text_0("mask", moved), gradient_of_text_0("mask", image), atol=1e-6
    )
    assert np.abs(gradient_of_text_0("ignore", moved) - gradient_of_text_0("ignore", image)).max() > 1e-2


@pytest.mark.parametrize("tile", FORMS)
def test_a_batch_of_one_caption_is_no_loss_when_masked(tile):
    image, text = small_batch()
    keys = keys_of(captions=np.zeros(7))
    value, gradients = evaluate(image, text, 1.0, 0.0, keys, kind="softmax", duplicates="mask", tile=tile)
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradients[1], 0.0)


@pytest.mark.parametrize("tile", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_pair(kind, tile):
    one = np.ones((1, 4), np.float32)
    value, gradients = evaluate(one, one, 0.0, 0.0, {}, kind=kind, duplicates="ignore", tile=tile)
    np.testing.assert_allclose(value, 0.0 if kind == "softmax" else np.log1p(np.exp(-1)), rtol=1e-6)
    np.testing.assert_allclose(gradients[1], 0.0, atol=1e-7)


def test_normalising():
    x = np.array([[3.0, 4.0], [1e-9, 0.0], [0.0, 0.0]], np.float32)
    expected = x.astype(np.float64) / (np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(l2_normalise(x), expected, rtol=1e-6)
    assert l2_normalise(x.astype(np.float16)).dtype == jnp.float32


def test_gradient_at_a_zero_vector_is_zero_both_ways():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    tangent = jnp.array([[1.0, 1.0], [1.0, 1.0]])
    _, forward = jax.jvp(l2_normalise, (x,), (tangent,))
    (backward,) = jax.vjp(l2_normalise, x)[1](tangent)
    for gradient in (forward, backward):
        np.testing.assert_array_equal(gradient[1], 0.0)
        np.testing.assert_allclose(
            gradient[0], [0.032, -0.024], rtol=1e-5
        )  # (I - z z^T) / 5 on (1, 1), z = (.6, .8)


@pytest.mark.parametrize("tile", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_zero_vectors_give_finite_gradients(kind, tile):
    image, text = small_batch()
    image[2] = 0
    text[:] = 0  # a zero-initialised head
    value, gradients = evaluate(image, text, 2.0, -1.0, keys_of(), kind=kind, duplicates="mask", tile=tile)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    np.testing.assert_array_equal(gradients[1], 0.0)


@pytest.mark.parametrize("tile", FORMS)
def test_a_tiny_loss_keeps_its_digits(tile):
    """Well-separated pairs at a high scale: the loss is far below the rounding of its log-sum-exps."""
    axes = np.eye(7, dtype=np.float32)
    value, gradients = evaluate(
        axes, axes, np.log(20.0), 0.0, {}, kind="softmax", duplicates="ignore", tile=tile
    )
    others = 6 * np.exp(-20.0)
    np.testing.assert_allclose(value, np.log1p(others), rtol=1e-5)
    np.testing.assert_allclose(gradients[2], -20 * others / (1 + others), rtol=1e-5)


def test_recall_of_a_matrix_to_check_by_eye():
    """Image 1 prefers text 0, the other images find theirs; every text finds its image."""
    text = np.eye(3, dtype=np.float32)
    image = np.array([[0.9, 0.1, 0.0], [0.6, 0.5, 0.0], [0.0, 0.2, 0.9]], np.float32)
    for tile in (2, 3):
        found = in_batch_recall(image, text, tile=tile)
        np.testing.assert_allclose([found["i2t"], found["t2i"]], [2 / 3, 1.0], rtol=1e-6)


def test_recall_with_duplicates():
    """Two pictures of one caption tie: the first wins where the tie counts, both are right where they are positives."""
    image, text, keys = caption_seen_twice()
    expected = {"ignore": (2 / 3, 2 / 3), "mask": (1.0, 1.0), "positive": (1.0, 1.0)}
    for duplicates, (i2t, t2i) in expected.items():
        found = in_batch_recall(image, text, duplicates=duplicates, **keys)
        np.testing.assert_allclose([found["i2t"], found["t2i"]], [i2t, t2i], rtol=1e-6)


def test_split_keys_keeps_all_64_bits():
    words = split_keys(np.array([0x0123456789ABCDEF], np.uint64))
    assert words.dtype == np.uint32
    assert [hex(word) for word in words[0]] == ["0x89abcdef", "0x1234567"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "hinge"}, "kind: must be one of softmax, sigmoid"),
        ({"kind": "sigmoid", "bias": None}, "must have a bias"),
        ({"duplicates": "drop"}, "duplicates: must be one of mask"),
        ({"image_keys": None, "caption_keys": None}, "neither was given"),
        ({"image_keys": np.zeros((7, 2), np.int32)}, r"image_keys: must be uint32 \[7, 2\]"),
        ({"caption_keys": np.zeros(7, np.uint32)}, r"caption_keys: must be uint32 \[7, 2\]"),
        ({"text_embeddings": np.zeros((7, 5), np.float32)}, r"found \[7, 4\] and \[7, 5\]"),
        ({"tile": 0}, "tile: must be at least 1"),
    ],
)
def test_refusals(options, message):
    image, text = small_batch()
    arguments = {
        "image_embeddings": image,
        "text_embeddings": text,
        "log_scale": 0.0,
        "bias": 0.0,
        "kind": "softmax",
    }
    with pytest.raises(ValueError, match=message):
        contrastive_loss(**(arguments | keys_of() | options))
