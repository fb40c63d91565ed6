"""Texts through a tower: one shape, each text once, rows in the asked order."""

import numpy as np
import pytest

from trainer.evals import embed_text
from trainer.evals.embed_text import text_embedder


class CountingTower:
    """A tower whose embedding of a text is (its length, 1); it records the shapes that reach it."""

    compute_dtype = "float32"

    def __init__(self, scale=1.0):
        self.params = {"scale": np.float32(scale)}
        self.traced, self.batches = [], []

    def tokenizer(self, texts, max_length):
        self.batches.append(list(texts))
        return np.array([[len(text)] + [0] * (max_length - 1) for text in texts], np.int32)

    def embed(self, params, tokens):
        self.traced.append(tokens.shape)
        lengths = tokens[:, :1].astype("float32")
        return params["scale"] * np.array([1.0, 0.0], "float32") * lengths + np.array([0.0, 1.0], "float32")


def test_batches_have_one_shape_and_texts_go_once():
    tower = CountingTower()
    found = text_embedder(tower, max_length=4, batch_size=2)(["aa", "b", "aa", "cccc", "b"])
    assert tower.traced == [(2, 4)]  # traced once: compiled once
    assert tower.batches == [["aa", "b"], ["cccc", "cccc"]]
    lengths = np.array([2, 1, 2, 4, 1])
    expected = np.stack([lengths, np.ones(5)], axis=1) / np.sqrt(lengths**2 + 1)[:, None]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_in_bfloat16_processors_take_some_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(embed_text, "CHUNK_TOKENS", 8)
    tower, texts = CountingTower(), ["aa", "b", "cccc", "ddd", "eeeeee"]
    whole = text_embedder(tower, max_length=4, batch_size=5)(texts)
    tower.compute_dtype = "bfloat16"
    np.testing.assert_array_equal(text_embedder(tower, max_length=4, batch_size=5)(texts), whole)
    assert tower.traced[0] == (5, 4)
    assert (2, 4) in tower.traced[1:]


def test_a_diverged_tower_is_refused():
    with pytest.raises(ValueError, match="text tower's embeddings must be finite"):
        text_embedder(CountingTower(scale=np.nan), max_length=4)(["a"])
