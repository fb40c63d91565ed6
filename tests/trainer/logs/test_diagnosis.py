"""A run that does not learn is told why, from what was measured."""

import math

import numpy as np
import pytest

from trainer.logs.diagnosis import BatchFacts, chance_loss, facts_of, likely_causes, sits_at_chance
from trainer.losses import contrastive_loss, split_keys

USUAL = {"loss": 1.0, "i2t_r1": 0.5, "t2i_r1": 0.5, "logit_scale": 10.0, "grad_norm": 1.0, "lr": 5e-4}
DIVERSE = BatchFacts(pairs=1000, duplicates=0.0, captions=1000, entropy=math.log(1000))


def test_the_facts_of_six_pairs():
    """Images 1 and 2 are one, captions 3, 4 and 5 read alike: five of six pairs have a twin."""
    facts = facts_of(split_keys([1, 1, 2, 3, 4, 5]), split_keys([1, 2, 9, 9, 9, 6]))
    assert facts.pairs == 6
    assert facts.duplicates == pytest.approx(5 / 6)
    assert facts.captions == 4
    assert facts.entropy == pytest.approx(0.5 * math.log(2) + 3 * math.log(6) / 6)


def test_of_several_captions_at_once_the_first_is_looked_at():
    keys = np.stack([split_keys([1, 1]), split_keys([2, 3])], axis=1)
    assert facts_of(split_keys([1, 2]), keys).captions == 1


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_chance_is_the_loss_of_equal_texts(kind):
    size = 64
    image = np.random.default_rng(0).normal(size=(size, 4)).astype(np.float32)
    text = np.zeros_like(image)
    bias = np.float32(-math.log(size - 1))
    value = contrastive_loss(image, text, np.float32(1), bias, kind=kind, duplicates="ignore")
    assert chance_loss(kind, size) == pytest.approx(float(value), rel=1e-5)


def test_what_looks_like_chance():
    assert sits_at_chance("softmax", 1024, USUAL) is None
    assert "ln B = 6.931" in sits_at_chance("softmax", 1024, {**USUAL, "loss": 6.9})
    assert "1 in 1,024" in sits_at_chance("softmax", 1024, {**USUAL, "i2t_r1": 1e-3, "t2i_r1": 0.0})
    unmeasured = {**USUAL, "i2t_r1": math.nan, "t2i_r1": math.nan}
    assert sits_at_chance("softmax", 1024, unmeasured) is None
    assert sits_at_chance("softmax", 4, {**USUAL, "loss": 9.0}) is None


@pytest.mark.parametrize(
    ("facts", "metrics", "named"),
    [
        ({"duplicates": 0.4}, {}, "40% of the pairs share image or caption"),
        ({"duplicates": 0.4}, {}, "--duplicates mask"),
        ({"captions": 5, "entropy": math.log(5)}, {}, "5 distinct ones in 1,000 pairs"),
        ({}, {"logit_scale": 1.5}, "scale fell to 1.50"),
        ({}, {"logit_scale": 300.0}, "--max-log-scale 4.6052"),
        ({}, {"lr": 1e-6}, "a small part of its peak"),
        ({}, {"lr": 1e-2}, "too high"),
        ({}, {"grad_norm": 1e-6}, "all but zero"),
        ({}, {}, "do the captions belong to these images"),
    ],
)
def test_causes_follow_from_the_facts(facts, metrics, named):
    causes = likely_causes(
        BatchFacts(**{**vars(DIVERSE), **facts}),
        {**USUAL, **metrics},
        "ignore",
        max(1e-3, metrics.get("lr", 0)),
    )
    assert any(named in cause for cause in causes), causes
    assert len(causes) == 1
