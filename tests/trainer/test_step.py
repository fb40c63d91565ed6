"""One step moves what trains, by what the optimizer says, and measures itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainer.config import LossConfig
from trainer.data.batches import Batch
from trainer.losses import contrastive_loss
from trainer.step import add_scale, init_state, make_step

pytestmark = pytest.mark.usefixtures("compiled_once")

B, H, D = 6, 4, 5
HEAD = {"kernel": np.random.default_rng(1).normal(size=(H, D)).astype(np.float32)}


def embed_text(params, features, key):
    return features @ params["head"]["kernel"]


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(0)
    return Batch(
        image_embeddings=rng.normal(size=(B, D)).astype(np.float16),
        text=rng.normal(size=(B, H)).astype(np.float32),
        image_keys=rng.integers(0, 2**32, (B, 2), dtype=np.uint32),
        caption_keys=rng.integers(0, 2**32, (B, 2), dtype=np.uint32),
    )


def make(loss: LossConfig, log_every: int = 1, embed=embed_text):
    optimizer = optax.sgd(0.1)
    state = init_state(add_scale({"head": HEAD}, loss), optimizer)
    return state, make_step(embed, loss, optimizer, lambda k: 1.0 / (k + 1), seed=0, log_every=log_every)


@pytest.mark.parametrize("loss", [LossConfig(), LossConfig(loss="sigmoid")])
def test_a_step_is_the_gradient_of_the_loss(batch, loss):
    state, step = make(loss)

    def value(params):
        return contrastive_loss(
            jnp.asarray(batch.image_embeddings, jnp.float32),
            embed_text(params, batch.text, None),
            params["log_scale"],
            params.get("bias"),
            kind=loss.loss,
            image_keys=batch.image_keys,
            caption_keys=batch.caption_keys,
        )

    before = jax.tree.map(np.array, state.params)
    expected, gradients = jax.value_and_grad(value)(before)
    state, metrics = step(state, batch)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradients), rtol=1e-5)
    np.testing.assert_allclose(metrics["logit_scale"], 10.0, rtol=1e-6)
    for name, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        wanted = (
            dict(jax.tree_util.tree_leaves_with_path(before))[name]
            - 0.1 * dict(jax.tree_util.tree_leaves_with_path(gradients))[name]
        )
        np.testing.assert_allclose(leaf, wanted, rtol=1e-4, atol=1e-6)
    assert ("bias" in state.params) == ("logit_bias" in metrics) == (loss.loss == "sigmoid")
    assert int(state.step) == 1


def test_the_scale_and_bias_begin_where_they_are_told():
    params = add_scale({}, LossConfig(loss="sigmoid", logit_scale_init=7.0, logit_bias_init=-3.0))
    np.testing.assert_allclose(np.exp(params["log_scale"]), 7.0, rtol=1e-6)
    assert params["bias"] == -3.0
    assert "bias" not in add_scale({}, LossConfig())


def test_recall_is_measured_at_the_first_and_every_nth_step(batch):
    state, step = make(LossConfig(), log_every=3)
    measured = []
    for _ in range(6):
        state, metrics = step(state, batch)
        measured.append(bool(np.isfinite(metrics["i2t_r1"])))
    assert measured == [True, False, True, False, False, True]


def test_how_often_recall_is_measured_changes_no_parameter(batch):
    ends = []
    for log_every in (1, 4):
        state, step = make(LossConfig(), log_every)
        for _ in range(4):
            state, _ = step(state, batch)
        ends.append(state.params["head"]["kernel"])
    np.testing.assert_array_equal(*ends)


def test_recall_in_the_batch_is_right(batch):
    state, step = make(
        LossConfig(), embed=lambda params, features, key: features @ (0 * params["head"]["kernel"]) + _own
    )
    _own = np.asarray(batch.image_embeddings, np.float32)
    _, metrics = step(state, batch)
    assert metrics["i2t_r1"] == metrics["t2i_r1"] == 1.0


def test_rows_with_equal_captions_do_not_push_each_other_away(batch):
    twins = batch._replace(caption_keys=np.repeat(batch.caption_keys[:1], B, axis=0))
    state, step = make(LossConfig(duplicates="mask"))
    _, metrics = step(state, twins)
    assert metrics["loss"] == 0.0  # every other pair is left out


def test_dropout_keys_follow_from_seed_and_step_alone(batch):
    seen = []

    def embed(params, features, key):
        jax.debug.callback(lambda bits: seen.append(int(bits)), jax.random.bits(key))
        return embed_text(params, features, key)

    for _ in range(2):
        state, step = make(LossConfig(), embed=embed)
        for _ in range(2):
            state, _ = step(state, batch)
        jax.effects_barrier()
    assert seen[:2] == seen[2:]
    assert seen[0] != seen[1]


def test_captions_drawn_jointly_add_up_their_losses(batch):
    """Three captions an image: the gradient is of the sum of the three losses, the metric their mean."""
    rng = np.random.default_rng(3)
    joint = batch._replace(
        text=rng.normal(size=(B, 3, H)).astype(np.float32),
        caption_keys=rng.integers(0, 2**32, (B, 3, 2), dtype=np.uint32),
    )
    single = [
        batch._replace(text=joint.text[:, kind], caption_keys=joint.caption_keys[:, kind])
        for kind in range(3)
    ]
    state, step = make(LossConfig())
    before = jax.tree.map(np.array, state.params)
    state, metrics = step(state, joint)
    moved = jax.tree.map(lambda ours, start: ours - start, state.params, before)
    alone = []
    for one in single:
        other, step = make(LossConfig())
        other, found = step(other, one)
        alone.append((jax.tree.map(lambda ours, start: ours - start, other.params, before), found))
    np.testing.assert_allclose(metrics["loss"], np.mean([found["loss"] for _, found in alone]), rtol=1e-6)
    np.testing.assert_allclose(metrics["i2t_r1"], np.mean([found["i2t_r1"] for _, found in alone]), rtol=1e-6)
    for name in ("head", "log_scale"):
        for ours, *theirs in zip(
            *(jax.tree.leaves(one[name]) for one in (moved, *(one for one, _ in alone))), strict=True
        ):
            np.testing.assert_allclose(ours, sum(theirs), rtol=1e-4, atol=1e-6)


def test_the_average_follows_the_parameters(batch):
    optimizer, loss = optax.sgd(0.1), LossConfig()
    state = init_state(add_scale({"head": HEAD}, loss), optimizer, keep_average=True)
    step = make_step(embed_text, loss, optimizer, lambda k: 1.0, 0, 1, average_decay=0.75)
    expected = np.array(HEAD["kernel"])
    for _ in range(3):
        state, _ = step(state, batch)
        expected = 0.75 * expected + 0.25 * np.asarray(state.params["head"]["kernel"])
    np.testing.assert_allclose(state.average["head"]["kernel"], expected, rtol=1e-5, atol=1e-7)
    assert not np.allclose(expected, state.params["head"]["kernel"])


def test_what_is_frozen_has_no_say_in_the_gradient_norm(batch):
    optimizer, loss = optax.sgd(0.1), LossConfig()
    params = add_scale({"backbone": {"kernel": np.eye(H, dtype=np.float32)}, "head": HEAD}, loss)

    def embed(params, features, key):
        return features @ params["backbone"]["kernel"] @ params["head"]["kernel"]

    norms = {}
    for frozen in ((), ("backbone/.*",)):
        state = init_state(params, optimizer)
        step = make_step(embed, loss, optimizer, lambda k: 1.0, 0, 1, frozen=frozen)
        state, metrics = step(state, batch)
        norms[frozen] = {name: float(value) for name, value in metrics.items() if name.startswith("grad")}
    free, held = norms[()], norms[("backbone/.*",)]
    assert free["grad_norm_backbone"] > 0
    assert held["grad_norm_backbone"] == 0
    assert held["grad_norm_head"] == pytest.approx(free["grad_norm_head"], rel=1e-6)
    assert held["grad_norm"] < free["grad_norm"]
    np.testing.assert_array_equal(state.params["backbone"]["kernel"], np.eye(H))
