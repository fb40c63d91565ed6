"""One update of the text tower, its head and the logit scale from one batch."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from trainer.config import LossConfig
from trainer.data.batches import Batch
from trainer.devices.mesh import over_devices, replicated
from trainer.losses import contrastive_loss, in_batch_recall
from trainer.microbatch import EmbedText, in_microbatches

Metrics = dict[str, jax.Array]
TrainStep = Callable[["TrainState", Batch], tuple["TrainState", Metrics]]


@flax.struct.dataclass
class TrainState:
    """All that changes from step to step.

    Attributes:
        params: what trains and nothing else: `head`, `log_scale`, `backbone` unless it is frozen, `bias`
            for the sigmoid loss.
        opt_state: the optimizer's own state.
        step: int32 [], updates made so far.
    """

    params: dict[str, Any]
    opt_state: optax.OptState
    step: jax.Array


def init_state(params: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; parameters are copied, so that donating them harms nobody else."""
    params = jax.tree.map(jnp.array, params)
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def add_scale(tower_params: dict[str, Any], loss: LossConfig) -> dict[str, Any]:
    """Put the loss's own parameters beside the tower's: log_scale [], and for the sigmoid bias []."""
    params = {**tower_params, "log_scale": jnp.log(jnp.float32(loss.logit_scale_init))}
    if loss.loss == "sigmoid":
        params["bias"] = jnp.float32(loss.logit_bias_init)
    return params


def make_step(
    embed_text: EmbedText,
    loss: LossConfig,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    seed: int,
    log_every: int,
    *,
    microbatch_size: int | None = None,
    mesh: Mesh | None = None,
) -> TrainStep:
    """Compile the update.

    Args:
        embed_text: the trained part of the text tower.
        loss: which loss, and how duplicates are treated.
        optimizer: made by `make_optimizer`.
        schedule: step -> learning-rate factor, for the metrics.
        seed: of dropout.
        log_every: recall costs a second matrix product; it is measured at steps whose number (from 1) this
            divides and at the first, and is NaN otherwise.
        microbatch_size: rows of text a device embeds at a time, at the price of embedding them twice; None: all.
        mesh: the devices that the rows of a batch lie along and that each hold the whole state
            (`trainer.devices.mesh`); None: one.

    Returns:
        (state, batch) -> (state, metrics). The state given in is donated: use only the one that comes out.
        Metrics are float32 []: loss, grad_norm (before clipping), logit_scale, logit_bias (sigmoid), lr_factor,
        i2t_r1 and t2i_r1 (share of the batch whose best match is its own).
    """

    if microbatch_size is not None:
        embed_text = in_microbatches(embed_text, microbatch_size)
    if mesh is not None:
        embed_text = over_devices(embed_text, mesh)

    def loss_and_text(params: dict[str, Any], batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        text_embeddings = embed_text(params, batch.text, key)
        value = contrastive_loss(
            batch.image_embeddings.astype(jnp.float32),
            text_embeddings,
            params["log_scale"],
            params.get("bias"),
            kind=loss.loss,
            image_keys=batch.image_keys,
            caption_keys=batch.caption_keys,
            duplicates=loss.duplicates,
            mesh=mesh,
        )
        return value, text_embeddings

    def recall(batch: Batch, text_embeddings: jax.Array) -> dict[str, jax.Array]:
        return in_batch_recall(
            batch.image_embeddings.astype(jnp.float32),
            text_embeddings,
            image_keys=batch.image_keys,
            caption_keys=batch.caption_keys,
            duplicates=loss.duplicates,
            mesh=mesh,
        )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (value, text_embeddings), gradients = jax.value_and_grad(loss_and_text, has_aux=True)(
            state.params, batch, key
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        number = state.step + 1
        found = jax.lax.cond(
            (number % log_every == 0) | (number == 1),
            recall,
            lambda *_: {"i2t": jnp.float32(jnp.nan), "t2i": jnp.float32(jnp.nan)},
            batch,
            text_embeddings,
        )
        metrics = {
            "loss": value,
            "grad_norm": optax.tree.norm(gradients),
            "logit_scale": jnp.exp(state.params["log_scale"]),
            "lr_factor": jnp.asarray(schedule(state.step), jnp.float32),
            "i2t_r1": found["i2t"],
            "t2i_r1": found["t2i"],
        }
        if "bias" in state.params:
            metrics["logit_bias"] = state.params["bias"]
        return TrainState(params, opt_state, number), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=None if mesh is None else replicated(mesh))
