"""Which tokens are padding, and means over the others."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.text_towers.bert import Bert, BertConfig
from trainer.text_towers.clip import Clip, ClipConfig
from trainer.text_towers.modernbert import ModernBert, ModernBertConfig
from trainer.text_towers.pooling import masked_mean, real_tokens
from trainer.text_towers.t5 import T5, T5Config
from trainer.text_towers.transformer import Transformer, TransformerConfig


def test_only_the_run_of_pads_at_the_end_is_padding() -> None:
    mask = real_tokens(jnp.array([[2, 5, 0, 3, 0, 0], [2, 3, 0, 0, 0, 0], [2, 4, 5, 6, 7, 3], [0] * 6]), 0)
    assert mask.sum(axis=1).tolist() == [4, 2, 6, 0]
    assert mask[0].tolist() == [True, True, True, True, False, False]


def test_the_mean_leaves_padding_out() -> None:
    hidden = jnp.arange(12, dtype=jnp.float32).reshape(2, 3, 2)
    mean = masked_mean(hidden, jnp.array([[True, True, False], [False] * 3]))
    np.testing.assert_array_equal(mean, [[1, 2], [0, 0]])


TRANSFORMER = TransformerConfig(vocab_size=30, positions=16, width=32, depth=3, heads=2, mlp=128)
CLIP = ClipConfig(vocab_size=30, width=32, depth=3, heads=2, mlp=128, positions=16, eos_id=29, pad_id=0)
BERT = BertConfig(vocab_size=30, width=32, depth=3, heads=2, mlp=128, positions=16)
MODERNBERT = ModernBertConfig(
    vocab_size=30, width=32, depth=3, heads=2, mlp=64, window=4, global_layers=(0,), pad_id=0
)
T5_TINY = T5Config(vocab_size=30, width=32, depth=3, heads=2, head_width=16, mlp=128)


@pytest.mark.parametrize(
    "backbone",
    [
        Transformer(dataclasses.replace(TRANSFORMER, pool="first")),
        Transformer(dataclasses.replace(TRANSFORMER, pool="last")),
        Bert(dataclasses.replace(BERT, pool="cls")),
        ModernBert(dataclasses.replace(MODERNBERT, pool="cls")),
        T5(dataclasses.replace(T5_TINY, pool="cls")),
        Clip(CLIP),
    ],
    ids=["first", "last", "bert", "modernbert", "t5", "clip"],
)
def test_one_pooled_token_is_that_of_all_and_costs_less(backbone) -> None:
    """Values and gradients are those of a network that computes every token's last state."""
    random = np.random.default_rng(0)
    tokens, ends = random.integers(2, 28, (5, 16), np.int32), random.integers(3, 16, 5)
    tokens[np.arange(16) > ends[:, None]] = 0
    tokens[np.arange(5), ends] = 29
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * random.standard_normal(leaf.shape, np.float32),
        backbone.init(jax.random.key(0), tokens),
    )
    first = getattr(backbone.config, "pool", "eos") in ("first", "cls")
    states, place = all_states(backbone, tokens != 0), np.zeros(5, int) if first else ends
    dear, expected = stepped(lambda params: states(params, tokens)[np.arange(5), place], params)
    cheap, found = stepped(lambda params: backbone.apply(params, tokens), params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), found, expected)
    assert cheap < 0.9 * dear  # of three blocks


def all_states(backbone, mask: np.ndarray) -> Callable[..., jax.Array]:
    """(params, tokens) → float32 [B, L, H], by a network that pools otherwise."""
    if isinstance(backbone, Clip):
        return partial(backbone.apply, method="hidden")
    other = type(backbone)(dataclasses.replace(backbone.config, pool="mean"))
    if not isinstance(backbone, Transformer):
        return lambda params, tokens: other.apply(params, tokens, mask, method="hidden")

    def normed(params, tokens):
        _, kept = other.apply(
            params, tokens, capture_intermediates=lambda module, _: module.name == "encoder_norm"
        )
        return kept["intermediates"]["Encoder_0"]["encoder_norm"]["__call__"][0]

    return normed


def stepped(features: Callable[..., jax.Array], params) -> tuple[float, object]:
    """Operations of a step, and its features and gradients."""

    def loss(params):
        y = features(params)
        return jnp.sum(jnp.sin(y)), y

    step = jax.jit(jax.grad(loss, has_aux=True)).lower(params)
    return step.cost_analysis()["flops"], step.compile()(params)
