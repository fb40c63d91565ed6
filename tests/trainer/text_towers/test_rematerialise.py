"""Blocks computed again for the gradient give the same gradient."""

import jax
import numpy as np
import pytest

from trainer.text_towers.bert import Bert, BertConfig
from trainer.text_towers.rematerialise import rematerialising
from trainer.text_towers.row_dropout import row_keys
from trainer.text_towers.transformer import Transformer, TransformerConfig

SIZES = {"vocab_size": 16, "width": 8, "depth": 2, "heads": 2, "mlp": 16, "positions": 4, "dropout": 0.2}
TOWERS = {"bert": Bert(BertConfig(**SIZES)), "transformer": Transformer(TransformerConfig(**SIZES))}


@pytest.mark.parametrize("name", TOWERS)
def test_the_same_gradient_from_the_blocks_inputs(name):
    tower = TOWERS[name]
    tokens = np.random.default_rng(0).integers(1, 16, (5, 4)).astype(np.int32)
    params = tower.init(jax.random.key(0), tokens)["params"]
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * np.random.default_rng(leaf.size).normal(size=leaf.shape), params
    )

    def gradient(wanted):
        def value(params):
            with rematerialising(wanted):
                out = tower.apply({"params": params}, tokens, row_keys(jax.random.key(1), 5))
            return (out**3).sum()

        traced = jax.jit(jax.grad(value)).trace(params)
        barriers = traced.lower().as_text().count("optimization_barrier")
        return barriers, traced.lower().compile()(params)

    (none, plain), (one_per_block, again) = gradient(False), gradient(True)
    assert none == 0
    assert one_per_block >= SIZES["depth"]
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
