"""The plan of a step: work counted by hand, memory as XLA says, warnings where published runs give cause."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainer.config import LossConfig
from trainer.data.batches import Batch
from trainer.losses import contrastive_loss
from trainer.step import add_scale, init_state, make_step
from trainer.step_plan import StepPlan, batch_warning, count_flops, describe, plan_step

B, H, D = 12, 8, 6


def embed(params, features, key, row_offset=0):
    return features @ params["head"]["kernel"]


@pytest.mark.parametrize(
    ("microbatch_size", "tower"),
    # Forward and the kernel's gradient; in microbatches one forward more.
    [(None, 2 * 2 * B * H * D), (4, 3 * 2 * B * H * D)],
)
def test_a_step_is_counted_and_measured(microbatch_size, tower):
    optimizer = optax.adam(0.1)
    params = add_scale({"head": {"kernel": np.zeros((H, D), np.float32)}}, LossConfig())
    step = make_step(embed, LossConfig(), optimizer, lambda k: 1.0, 0, 5, microbatch_size=microbatch_size)
    keys = jax.ShapeDtypeStruct((B, 2), jnp.uint32)
    batch = Batch(
        jax.ShapeDtypeStruct((B, D), jnp.float16), jax.ShapeDtypeStruct((B, H), jnp.float32), keys, keys
    )
    plan = plan_step(step, jax.eval_shape(lambda p: init_state(p, optimizer), params), batch, devices=1)
    assert plan.flops == tower + 2 * 2 * B * B * D  # the logits, and the texts' gradient
    assert plan.parameter_bytes == 4 * (H * D + 1)
    assert plan.optimizer_bytes == 2 * plan.parameter_bytes + 4
    assert plan.batch_bytes == B * (2 * D + 4 * H + 16)
    assert plan.temporary_bytes > 0


def test_loops_count_as_often_as_they_run():
    """In tiles every product of the forward sweep is made as without, and once more backward."""
    image = jax.ShapeDtypeStruct((B, D), jnp.float32)

    def loss(image, text):
        return contrastive_loss(image, text, 1.0, kind="softmax", duplicates="ignore", tile=4)

    assert count_flops(jax.make_jaxpr(loss)(image, image)) == 2 * B * B * D


def test_the_plan_reads_well():
    plan = StepPlan(1, 2**30, 2**31, 2**29, 2**30, flops=8e12)
    said = describe(plan, batch_size=1000, tokens=16, flops_per_second=4e12)
    assert "memory on 1 device: 4.500 GiB = parameters 1.000 + optimizer 2.000" in said
    assert "8.000 TFLOP a step in matrix products, 8.000 GFLOP a pair" in said
    assert "at most 500 pairs/s (8,000 tokens/s), 2.00 s a step" in said
    four = describe(StepPlan(4, 2**20, 2**21, 0, 0, 8e12), 1000, None, 4e12)
    assert "memory on each of 4 devices: 3.000 MiB = parameters 1.000 + optimizer 2.000 + batch 0.000" in four
    assert "at most 2,000 pairs/s, 0.50 s a step" in four


def test_large_batches_are_questioned_where_published_runs_did():
    assert batch_warning(32_768, 10, 10**6) is None
    assert batch_warning(65_536, 20_000, 10**9) is None
    few = batch_warning(262_144, 1_717, 10**9)
    assert "leaves 1,717 updates" in few
    assert "--batch-size 32768 --steps 13736" in few
    assert "large for 12,000,000 images" in batch_warning(65_536, 20_000, 12_000_000)
