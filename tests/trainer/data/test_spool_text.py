"""Tokens and frozen features: each once, at about their own length, going on after a kill."""

import jax
import numpy as np
import pytest

from trainer.data import spool_text
from trainer.data.by_length import bucket_lengths, features_by_length
from trainer.data.captions import select_captions
from trainer.data.spool_text import fill, spool_features, spool_tokens
from trainer.text_towers.bert import Bert, BertConfig


@pytest.fixture
def everything(columns, tmp_path):
    return select_captions(columns, (), (), "caption", tmp_path)


def test_tokens_are_caption_major_and_templates_take_captions_literally(
    columns, everything, word_lengths, tmp_path
):
    found = spool_tokens(columns, everything, word_lengths, 4, ("{}", "see {}!"), tmp_path)["tokens"]
    assert found.shape == (10, 4)
    assert found[0].tolist() == [1, 3, 0, 0]  # a cat
    assert found[1].tolist() == [3, 1, 4, 0]  # see a cat!
    assert found[5].tolist() == [3, 6, 3, 0]  # see größer {}!
    assert fill("see {}!", "größer {}") == "see größer {}!"


def test_tokens_depend_on_templates_and_length_alone(columns, everything, word_lengths, tmp_path):
    first = spool_tokens(columns, everything, word_lengths, 4, ("{}",), tmp_path)
    assert spool_tokens(columns, everything, word_lengths, 4, ("{}",), tmp_path).path == first.path
    assert spool_tokens(columns, everything, word_lengths, 5, ("{}",), tmp_path).path != first.path
    assert spool_tokens(columns, everything, word_lengths, 4, ("a {}",), tmp_path).path != first.path


def test_tokens_and_features_are_cut_into_pieces_that_a_kill_keeps(
    columns, everything, word_lengths, tmp_path, monkeypatch
):
    monkeypatch.setattr(spool_text, "_TOKENS_PIECE", 2)
    monkeypatch.setattr(spool_text, "_FEATURES_PIECE", 2)
    tokens = spool_tokens(columns, everything, word_lengths, 4, ("{}", "see {}!"), tmp_path)
    monkeypatch.undo()
    whole = spool_tokens(columns, everything, word_lengths, 4, ("{}", "see {}!"), tmp_path / "whole")
    np.testing.assert_array_equal(tokens["tokens"], whole["tokens"])

    monkeypatch.setattr(spool_text, "_FEATURES_PIECE", 2)
    calls = []

    def compute(batch, fails_at=None):
        calls.append(len(batch))
        if len(calls) == fails_at:
            raise OSError("killed")
        return batch[:, :2].astype(np.float32)

    with pytest.raises(OSError, match="killed"):
        spool_features(tokens, lambda batch: compute(batch, 3), 2, "b", tmp_path, batch_size=4)
    features = spool_features(tokens, compute, 2, "b", tmp_path, batch_size=4)["features"]
    np.testing.assert_array_equal(features, tokens["tokens"][:, :2])
    assert len(calls) == 3 + 3  # five pieces, of which two were there


def test_frozen_features_come_from_whole_batches_and_are_computed_once(
    columns, everything, word_lengths, tmp_path
):
    tokens = spool_tokens(columns, everything, word_lengths, 4, ("{}",), tmp_path)
    shapes = []

    def compute(batch):
        shapes.append(batch.shape)
        return batch[:, :2].astype(np.float32) * 0.5

    features = spool_features(tokens, compute, 2, "backbone", tmp_path, batch_size=3)["features"]
    np.testing.assert_array_equal(features, tokens["tokens"][:, :2] * np.float32(0.5))
    assert shapes == [(3, 4), (3, 4)]
    spool_features(tokens, lambda batch: pytest.fail("computed again"), 2, "backbone", tmp_path)


@pytest.fixture
def rows() -> np.ndarray:
    """int32 [60, 40]: rows of 1 to 40 tokens, some of padding alone."""
    random = np.random.default_rng(0)
    tokens = random.integers(1, 30, (60, 40)).astype(np.int32)
    lengths = random.integers(0, 41, 60)
    return np.where(np.arange(40) < lengths[:, None], tokens, 0).astype(np.int32)


def test_lengths_are_rounded_up_to_a_few(rows):
    found = bucket_lengths(rows, 0)
    own = (rows != 0).sum(axis=1)
    assert (found >= own).all()
    assert (found - own <= 5).all()
    assert set(found.tolist()) <= set(range(5, 41, 5))
    assert bucket_lengths(np.array([[0, 0, 0, 0, 0], [3, 0, 0, 0, 0], [1, 1, 1, 1, 1]]), 0).tolist() == [
        4,
        4,
        5,
    ]


def test_a_padding_id_inside_a_caption_does_not_end_it():
    assert bucket_lengths(np.array([[5, 0, 0, 0, 0, 7, 0, 0, 0]]), 0).tolist() == [8]


def test_a_bert_says_the_same_at_its_own_length_within_rounding(rows):
    bert = Bert(BertConfig(vocab_size=30, width=16, depth=2, heads=2, mlp=32, positions=40))
    params = bert.init(jax.random.key(0), rows)["params"]
    apply = jax.jit(lambda tokens: bert.apply({"params": params}, tokens))
    work: list[int] = []

    def compute(batch):
        work.append(batch.size)
        return np.asarray(apply(batch))

    rows[:, 0] = 1  # a caption of no token at all has no mean
    found = features_by_length(rows, compute, 16, 0, 8)
    expected = np.asarray(apply(rows))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert max(work) == 8 * 40
    assert sum(work) < 0.9 * 8 * 40 * len(work)


def test_a_backbone_that_looks_at_padding_is_run_at_full_length(rows):
    def compute(batch):
        mean = (batch + 1.0).mean(axis=1, keepdims=True)  # of all tokens, those of padding too
        return np.concatenate([mean, mean], axis=1).astype(np.float32)

    np.testing.assert_array_equal(features_by_length(rows, compute, 2, 0, 8), compute(rows))
