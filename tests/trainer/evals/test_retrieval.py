"""Retrieval: the reference's figures, the tie policy, a plain twin, and what must never change them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evals import retrieval


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "evaluators" / "evaluators.npz")


def golden_case(golden, case):
    return tuple(golden[f"retr/{case}/{name}"] for name in ("zimg", "ztxt", "corr"))


def slow_ranks(images, texts, caption_image):
    """The definition, one comparison at a time, in float64."""
    scores = images.astype(np.float64) @ texts.astype(np.float64).T
    n, m = scores.shape
    i2t = []
    for i in range(n):
        best = max(scores[i, j] for j in range(m) if caption_image[j] == i)
        i2t.append(sum(scores[i, j] >= best - 1e-6 for j in range(m) if caption_image[j] != i))
    t2i = []
    for j in range(m):
        own = scores[caption_image[j], j]
        t2i.append(sum(scores[i, j] >= own - 1e-6 for i in range(n) if i != caption_image[j]))
    return i2t, t2i


def random_pairs(seed, integers=False):
    rng = np.random.default_rng(seed)
    n, m, d = rng.integers(2, 12), rng.integers(12, 40), rng.integers(1, 6)
    caption_image = rng.permutation(np.concatenate([np.arange(n), rng.integers(0, n, m - n)]))
    draw = (lambda size: rng.integers(-2, 3, size)) if integers else rng.standard_normal
    return draw((n, d)).astype(np.float32), draw((m, d)).astype(np.float32), caption_image


@pytest.mark.parametrize("block", [1, 7, 1024])
@pytest.mark.parametrize("case", ["five_caps", "var_caps_shuffled", "fewer_than_k"])
def test_recall_is_the_reference_s(golden, case, block):
    ranks = retrieval.retrieval_ranks(*golden_case(golden, case), block=block)
    for k in (1, 5, 10):
        assert retrieval.recall(ranks.i2t, k) == golden[f"retr/{case}/img2txt/Recall@{k}"]
        assert retrieval.recall(ranks.t2i, k) == golden[f"retr/{case}/txt2img/Recall@{k}"]


def test_ties_count_against_us(golden):
    # The reference's own figures here depend on an unstable sort; ours bound any sort from below.
    ranks = retrieval.retrieval_ranks(*golden_case(golden, "ties_integer"), block=11)
    np.testing.assert_array_equal(ranks.i2t, slow_ranks(*golden_case(golden, "ties_integer"))[0])
    assert [retrieval.recall(ranks.i2t, k) for k in (1, 5, 10)] == pytest.approx([0, 1 / 24, 1 / 24])
    assert [retrieval.recall(ranks.t2i, k) for k in (1, 5, 10)] == pytest.approx(
        [1 / 120, 12 / 120, 40 / 120]
    )
    for k in (1, 5, 10):
        assert retrieval.recall(ranks.i2t, k) <= golden[f"retr/ties_integer/img2txt/Recall@{k}"]
        assert retrieval.recall(ranks.t2i, k) <= golden[f"retr/ties_integer/txt2img/Recall@{k}"]


def test_a_matrix_checked_by_eye():
    # Rows images, columns captions; own pairs in brackets. Two captions an image.
    #          0     0     1     1
    # 0     [0.1] [0.8]  0.3   0.2      best own 0.8: nothing foreign above, a hit at 1
    # 1      0.9   0.4  [0.5] [0.1]     best own 0.5: 0.9 is above, a hit at 2
    scores = np.array([[0.1, 0.8, 0.3, 0.2], [0.9, 0.4, 0.5, 0.1]], np.float32)
    ranks = retrieval.retrieval_ranks(np.eye(2, dtype=np.float32), scores.T.copy(), np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(ranks.i2t, [0, 1])
    np.testing.assert_array_equal(ranks.t2i, [1, 0, 0, 1])
    assert retrieval.summarize(ranks.i2t) == {"r1": 0.5, "r5": 1.0, "r10": 1.0, "median_rank": 1.5}


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("block", [3, 16])
def test_blocks_equal_the_definition(seed, integers, block):
    pairs = random_pairs(seed, integers)
    ranks = retrieval.retrieval_ranks(*pairs, block=block)
    i2t, t2i = slow_ranks(*pairs)
    np.testing.assert_array_equal(ranks.i2t, i2t)
    np.testing.assert_array_equal(ranks.t2i, t2i)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6), integers=st.booleans())
def test_row_order_changes_nothing_and_recall_never_falls(seed, integers):
    images, texts, caption_image = random_pairs(seed, integers)
    ranks = retrieval.retrieval_ranks(images, texts, caption_image, block=5)
    rng = np.random.default_rng(seed + 1)
    rows, columns = rng.permutation(len(images)), rng.permutation(len(texts))
    moved = np.argsort(rows)[caption_image[columns]]
    shuffled = retrieval.retrieval_ranks(images[rows], texts[columns], moved, block=4)
    np.testing.assert_array_equal(shuffled.i2t, ranks.i2t[rows])
    np.testing.assert_array_equal(shuffled.t2i, ranks.t2i[columns])
    for found in (ranks.i2t, ranks.t2i):
        recalls = [retrieval.recall(found, k) for k in range(1, 45)]
        assert recalls == sorted(recalls)
        assert recalls[-1] == 1.0


def test_equal_vectors_tie_wherever_they_stand():
    # The same vectors a thousand rows apart, in blocks of odd sizes: their scores may differ in the last bit.
    rng = np.random.default_rng(5)
    half = rng.standard_normal((501, 96)).astype(np.float32)
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    twice = np.concatenate([half, half])
    ranks = retrieval.retrieval_ranks(twice, twice, np.arange(1002), block=97)
    np.testing.assert_array_equal(ranks.i2t, np.ones(1002))
    np.testing.assert_array_equal(ranks.t2i, np.ones(1002))


def test_a_collapsed_tower_finds_nothing():
    images = np.eye(20, dtype=np.float32)
    ranks = retrieval.retrieval_ranks(images, np.ones((20, 20), np.float32), np.arange(20))
    assert retrieval.summarize(ranks.t2i) == {"r1": 0.0, "r5": 0.0, "r10": 0.0, "median_rank": 20.0}


def test_what_cannot_be_ranked_is_refused():
    images, texts = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="1 of 3 have none"):
        retrieval.retrieval_ranks(images, texts, np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="must agree"):
        retrieval.retrieval_ranks(images, texts[:, :2], np.arange(3))
    with pytest.raises(ValueError, match=r"rows 0\.\.2"):
        retrieval.retrieval_ranks(images, texts, np.array([0, 1, 3]))
    with pytest.raises(ValueError, match="caption embeddings must be finite"):
        retrieval.retrieval_ranks(images, texts * np.nan, np.arange(3))
