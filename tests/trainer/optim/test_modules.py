"""What of a tower moves is told by the names of its parameters."""

import re

import jax
import numpy as np
import pytest

from trainer.optim.modules import frozen_by, hold_still, paths_of, read_rules

BERT = {
    "backbone": {
        "word": {"embedding": 0.0},
        "position": {"embedding": 0.0},
        "embeddings_norm": {"scale": 0.0},
        **{f"layer_{i}": {"query": {"kernel": 0.0}, "output_norm": {"scale": 0.0}} for i in range(12)},
    },
    "head": {"kernel": 0.0},
    "log_scale": 0.0,
}
TRANSFORMER = {
    "backbone": {
        "Embed_0": {"embedding": 0.0},
        "pos_embedding": 0.0,
        "Encoder_0": {
            **{f"encoderblock_{i}": {"LayerNorm_0": 0.0, "MlpBlock_0": {"Dense_1": 0.0}} for i in range(3)},
            "encoder_norm": {"scale": 0.0},
        },
        "MAPHead_0": {"MlpBlock_0": {"Dense_0": 0.0}},
    },
    "head": {"kernel": 0.0},
}


# T5 has one table of distances for all its layers: it is theirs, and stands still with the first of them.
T5 = {
    "backbone": {"word": 0.0, "distance": 0.0, "layer_0": 0.0, "layer_1": 0.0, "final_norm": 0.0},
    "head": 0.0,
}


def moving(train, params):
    frozen = frozen_by(train, params)
    return {path for path in paths_of(params) if not any(re.fullmatch(one, path) for one in frozen)}


def test_of_bert_the_last_two_layers_and_the_head():
    found = moving("last-2", BERT)
    assert found == {
        path for path in paths_of(BERT) if re.match(r"backbone/layer_1[01]/|head|log_scale", path)
    }


def test_of_the_transformer_the_last_block_and_all_behind_it():
    assert moving("last-1", TRANSFORMER) == {
        "backbone/Encoder_0/encoderblock_2/LayerNorm_0",
        "backbone/Encoder_0/encoderblock_2/MlpBlock_0/Dense_1",
        "backbone/Encoder_0/encoder_norm/scale",
        "backbone/MAPHead_0/MlpBlock_0/Dense_0",
        "head/kernel",
    }


def test_of_t5_no_table_that_every_layer_reads():
    assert moving("last-1", T5) == {"backbone/layer_1", "backbone/final_norm", "head"}


def test_all_and_the_head_alone():
    assert frozen_by("all", BERT) == ()
    assert moving("head", BERT) == {"head/kernel", "log_scale"}
    assert frozen_by("head", {"head": 0.0}) == ()  # where the backbone is not among what trains


@pytest.mark.parametrize(
    ("train", "said"),
    [("last-13", "at most the backbone's 12 blocks"), ("last-0", "found 'last-0'"), ("tail", "found 'tail'")],
)
def test_what_cannot_be_told_is_refused(train, said):
    with pytest.raises(ValueError, match=said):
        frozen_by(train, BERT)


def test_no_gradient_reaches_what_holds_still():
    params = {"backbone": {"a": 2.0, "b": 3.0}, "head": 5.0}

    def value(params):
        still = hold_still(params, ("backbone/a",))
        return still["backbone"]["a"] * still["backbone"]["b"] * still["head"]

    gradient = jax.grad(value)(params)
    np.testing.assert_allclose(jax.tree.leaves(gradient), [0.0, 10.0, 6.0])


def test_rules():
    assert read_rules("rate_rules", ["backbone/.*=0.1", "a=b=2"]) == (("backbone/.*", 0.1), ("a=b", 2.0))
    for bad in ("backbone/.*", "(=1", "x=-1", "x=nan"):
        with pytest.raises(ValueError, match="rate_rules: must be PATTERN=FACTOR"):
            read_rules("rate_rules", [bad])
