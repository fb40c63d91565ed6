"""From a configuration and a tower to a step that moves what it should."""

import dataclasses

import jax
import numpy as np
import pytest

from trainer.assembly import assemble, plan
from trainer.config import DataConfig, TrainConfig
from trainer.data.batches import Batch
from trainer.optim.modules import paths_of
from trainer.optim.optimizer import OptimizerConfig
from trainer.text_towers import TextTowerConfig, build_text_tower

pytestmark = pytest.mark.usefixtures("compiled_once")

B, D, L = 6, 4, 4
CONFIG = TrainConfig(
    data=DataConfig(store=("S",), max_text_length=L),
    output="R",
    text=TextTowerConfig(text_width=8, text_depth=2, text_heads=2, text_mlp=8, vocab_size=64),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_fraction=0.0),
    batch_size=B,
    steps=4,
)


@pytest.fixture(scope="module")
def tower():
    return build_text_tower(CONFIG.text, D, jax.random.key(0), lambda: ["red square", "blue circle"], L)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**32, (2, B, 2), dtype=np.uint32)
    image = rng.normal(size=(B, D)).astype(np.float16)
    return Batch(image, rng.integers(1, 6, (B, L)).astype(np.int32), *keys)


def after_two_steps(config, tower, batch):
    assembly = assemble(config.resolved(B), tower, None)
    state = assembly.first_state()
    for _ in range(2):
        state, _ = assembly.step(state, batch)
    return state


def test_the_last_block_and_the_head_move_and_nothing_before(tower, batch):
    state = after_two_steps(dataclasses.replace(CONFIG, train="last-1"), tower, batch)
    leaves = zip(
        paths_of(state.params["backbone"]),
        jax.tree.leaves(state.params["backbone"]),
        jax.tree.leaves(tower.params["backbone"]),
        strict=True,
    )
    moved = {path for path, now, before in leaves if not np.array_equal(now, before)}
    assert any("encoderblock_1/" in path for path in moved)
    assert any("encoder_norm" in path for path in moved)
    assert not any("encoderblock_0/" in path or "mbed" in path for path in moved)
    assert not np.array_equal(state.params["head"]["kernel"], tower.params["head"]["kernel"])


def test_what_holds_still_costs_no_work(tower):
    costs = {
        train: plan(
            assemble(dataclasses.replace(CONFIG, train=train), tower, None),
            CONFIG,
            tower,
            np.dtype(np.float16),
        )
        for train in ("all", "last-1")
    }
    assert costs["last-1"].flops < 0.9 * costs["all"].flops
    assert costs["last-1"].optimizer_bytes < 0.7 * costs["all"].optimizer_bytes


def test_rematerialising_changes_no_update(tower, batch):
    plain, again = (
        after_two_steps(dataclasses.replace(CONFIG, rematerialise=wanted), tower, batch)
        for wanted in (False, True)
    )
    for ours, theirs in zip(jax.tree.leaves(again.params), jax.tree.leaves(plain.params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_plan_of_captions_drawn_jointly_counts_each(tower):
    joint = dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, caption_draw="joint", caption_kinds=("title", "tags")),
    )
    one, two = (
        plan(assemble(config, tower, None), config, tower, np.dtype(np.float16)) for config in (CONFIG, joint)
    )
    assert two.flops == pytest.approx(2 * one.flops)
    assert two.batch_bytes - one.batch_bytes == B * (4 * L + 8)


def test_a_head_alone_must_be_there(tower):
    alone = dataclasses.replace(
        CONFIG, train="head", text=dataclasses.replace(CONFIG.text, text_checkpoint="somewhere")
    )
    headless = dataclasses.replace(tower, params={**tower.params, "head": {}})
    with pytest.raises(ValueError, match="train: head must have one to train"):
        assemble(alone, headless, None)
    assert set(assemble(alone.resolved(B), tower, None).params) == {"head", "log_scale"}
