"""Zero-shot classification: the reference's figures, ties, labels, and a plain twin."""

import numpy as np
import pytest

from trainer.evals import zero_shot


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "evaluators" / "evaluators.npz")


@pytest.mark.parametrize(("renormalize", "name"), [(True, "avg_normalized"), (False, "avg_unnormalized")])
def test_averages_are_the_reference_s(golden, renormalize, name):
    made = zero_shot.average_prompts(golden["zs/emb"], golden["zs/labels"], 12, renormalize)
    np.testing.assert_allclose(made, golden[f"zs/{name}"], atol=1e-7)


def test_averages_do_not_depend_on_prompt_order(golden):
    order = np.random.default_rng(0).permutation(84)
    made = zero_shot.average_prompts(golden["zs/emb"][order], golden["zs/labels"][order], 12)
    np.testing.assert_allclose(made, golden["zs/avg_normalized"], atol=1e-6)


@pytest.mark.parametrize("block", [1, 7, 1000])
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_predictions_and_accuracy_are_the_reference_s(golden, kind, block):
    labels = golden[f"zs/y_{kind}"].reshape(100, -1)
    judged = zero_shot.classify(golden["zs/zimg"], golden["zs/avg_normalized"], labels, block)
    np.testing.assert_array_equal(judged.predicted, golden["zs/pred"])
    assert zero_shot.summarize(judged, [str(c) for c in range(12)])["top1"] == golden[f"zs/acc_{kind}"]


def slow_rank(scores, labels):
    """Place of the best label when classes are sorted by falling score, lower index first among equals."""
    order = sorted(range(len(scores)), key=lambda c: (-scores[c], c))
    return min(order.index(label) for label in labels if label >= 0)


def test_ranks_equal_a_plain_sort():
    rng = np.random.default_rng(1)
    images = rng.integers(-2, 3, (50, 3)).astype(np.float32)  # small integers: exact ties everywhere
    classes = rng.integers(-2, 3, (9, 3)).astype(np.float32)
    labels = np.where(rng.random((50, 2)) < 0.4, -1, rng.integers(0, 9, (50, 2)))
    labels[:, 0] = rng.integers(0, 9, 50)
    judged = zero_shot.classify(images, classes, labels, block=8)
    expected = [slow_rank(row, found) for row, found in zip(images @ classes.T, labels, strict=True)]
    np.testing.assert_array_equal(judged.rank, expected)
    hits = [p in found for p, found in zip(judged.predicted, labels, strict=True)]
    np.testing.assert_array_equal(judged.rank == 0, hits)


def test_figures_by_hand():
    # Four images, three classes; class 2 has no image.
    judged = zero_shot.Judged(
        predicted=np.array([0, 1, 2, 1]),
        rank=np.array([0, 2, 7, 0]),
        labels=np.array([[0, -1], [0, -1], [0, 1], [1, -1]]),
    )
    figures = zero_shot.summarize(judged, ["cat", "dog", "cow"])
    assert (figures["top1"], figures["top5"], figures["n"]) == (0.5, 0.75, 4)
    assert figures["mean_per_class"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert (figures["n_classes"], figures["n_classes_with_images"]) == (3, 2)
    assert figures["per_class"][0] == {"class_index": 0, "name": "cat", "n": 3, "top1": pytest.approx(1 / 3)}
    assert [(c["name"], c["predicted_name"], c["n"]) for c in figures["confusions"]] == [
        ("cat", "dog", 1),
        ("cat", "cow", 1),
    ]


def test_figures_do_not_depend_on_image_order():
    rng = np.random.default_rng(2)
    images = rng.standard_normal((40, 5)).astype(np.float32)
    classes = rng.standard_normal((6, 5)).astype(np.float32)
    labels, order = rng.integers(0, 6, (40, 1)), rng.permutation(40)
    names = list("abcdef")
    straight = zero_shot.summarize(zero_shot.classify(images, classes, labels), names)
    shuffled = zero_shot.summarize(zero_shot.classify(images[order], classes, labels[order]), names)
    assert straight == shuffled


def test_of_two_classes_with_equal_prompts_the_first_wins():
    classes = np.random.default_rng(3).standard_normal((300, 64)).astype(np.float32)
    classes[299] = classes[1]
    judged = zero_shot.classify(classes[[1, 299]], classes, np.array([[1], [299]]))
    np.testing.assert_array_equal(judged.predicted, [1, 1])
    np.testing.assert_array_equal(judged.rank, [0, 1])


def test_parts_of_different_width_merge():
    one = zero_shot.Judged(np.array([0]), np.array([0]), np.array([[0]]))
    two = zero_shot.Judged(np.array([1]), np.array([3]), np.array([[1, 0]]))
    merged = zero_shot.merge([one, two])
    np.testing.assert_array_equal(merged.labels, [[0, -1], [1, 0]])
    np.testing.assert_array_equal(merged.rank, [0, 3])
    assert len(zero_shot.merge([]).rank) == 0


def test_wrong_labels_and_values_are_refused():
    images, classes = np.ones((1, 2), np.float32), np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"class indices 0..2; found \[3\]"):
        zero_shot.classify(images, classes, np.array([[3]]))
    with pytest.raises(ValueError, match=r"found \[-2\]"):
        zero_shot.classify(images, classes, np.array([[-2]]))
    with pytest.raises(ValueError, match="must have a label"):
        zero_shot.classify(images, classes, np.array([[-1]]))
    with pytest.raises(ValueError, match="class embeddings must be finite"):
        zero_shot.classify(images, classes * np.nan, np.array([[0]]))
    with pytest.raises(ValueError, match=r"none for classes \[1\]"):
        zero_shot.average_prompts(classes, np.array([0, 0, 2]), 3)
