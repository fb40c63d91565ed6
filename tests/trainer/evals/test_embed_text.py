"""Texts through a tower: one shape, each text once, rows in the asked order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.evals import embed_text
from trainer.evals.embed_text import compiled_embed, text_embedder
from trainer.text_towers.bert import Bert, BertConfig


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


def test_a_tower_in_bfloat16_gives_the_vectors_of_its_own_embed():
    """Kernels that are laid out once, in chunks, against what training computes; the head is float32."""
    tower, random = BfloatTower(), np.random.default_rng(0)
    tokens = random.integers(1, 50, (300, 16)).astype(np.int32)
    embed = compiled_embed(tower)
    found = np.asarray(embed(embed.prepared(tower.params), tokens))
    expected = np.asarray(tower.embed(tower.params, tokens))
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)
    rounded = tower.params["head"]["kernel"].astype(jnp.bfloat16).astype(np.float32)
    other = {**tower.params, "head": {"kernel": rounded}}
    exact, near = (np.abs(found - np.asarray(tower.embed(p, tokens))).mean() for p in (tower.params, other))
    assert exact < near / 2


class BfloatTower:
    """A tiny BERT with a head."""

    compute_dtype = "bfloat16"

    def __init__(self):
        config = BertConfig(vocab_size=50, width=32, depth=2, heads=2, mlp=64, positions=16, pool="cls")
        self.bert = Bert(dataclasses.replace(config, compute_dtype=self.compute_dtype))
        backbone = self.bert.init(jax.random.key(0), np.ones((1, 16), np.int32))["params"]
        head = np.random.default_rng(1).standard_normal((32, 8), np.float32)
        self.params = {"backbone": backbone, "head": {"kernel": head}}

    def embed(self, params, tokens):
        return self.bert.apply({"params": params["backbone"]}, tokens) @ params["head"]["kernel"]
