"""One update of the text tower, its head and the logit scale from one batch."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from trainer.compiling import compiler_options
from trainer.config import LossConfig
from trainer.data.batches import Batch
from trainer.devices.mesh import over_devices, replicated
from trainer.devices.placement import places
from trainer.losses import contrastive_loss, in_batch_recall
from trainer.microbatch import EmbedText, in_microbatches
from trainer.optim.modules import hold_still

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
        average: the running average of params, where one is kept; else None.
    """

    params: dict[str, Any]
    opt_state: optax.OptState
    step: jax.Array
    average: dict[str, Any] | None = None


def init_state(
    params: dict[str, Any], optimizer: optax.GradientTransformation, keep_average: bool = False
) -> TrainState:
    """The state before the first step; parameters are copied, so that donating them harms nobody else."""
    params = jax.tree.map(jnp.array, params)
    average = jax.tree.map(jnp.array, params) if keep_average else None
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), average)


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
    shard_parameters: bool = False,
    frozen: tuple[str, ...] = (),
    average_decay: float | None = None,
    compute_dtype: str = "float32",
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
        mesh: the devices that the rows of a batch lie along (`trainer.devices.mesh`); None: one.
        shard_parameters: whether large arrays of the state are cut over the devices (`trainer.devices.placement`)
            rather than whole on each.
        frozen: patterns of the leaves that never move (`trainer.optim.modules`): no gradient is computed for them.
        average_decay: of the running average of the parameters; None: none is kept.
        compute_dtype: of the text tower's products, for `trainer.compiling`.

    Returns:
        (state, batch) -> (state, metrics). The state given in is donated: use only the one that comes out.
        Metrics are float32 []: loss (where an image has several captions at once the mean over them, whose sum the
        gradient is of), grad_norm (before clipping, of all that moves), grad_norm_backbone and grad_norm_head,
        logit_scale, logit_bias (sigmoid), lr_factor, i2t_r1 and t2i_r1 (share of the batch whose best match is its
        own).
    """

    if microbatch_size is not None:
        embed_text = in_microbatches(embed_text, microbatch_size)
    if mesh is not None:
        embed_text = over_devices(embed_text, mesh)

    def in_place(tree: Any) -> Any:
        if mesh is None or not shard_parameters:
            return tree
        return jax.lax.with_sharding_constraint(tree, places(mesh, tree, cut=True))

    def loss_and_text(
        params: dict[str, Any], batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, list[jax.Array]]:
        captions = _embed_captions(embed_text, hold_still(params, frozen), batch, key)
        values = [
            contrastive_loss(
                batch.image_embeddings.astype(jnp.float32),
                text_embeddings,
                params["log_scale"],
                params.get("bias"),
                kind=loss.loss,
                image_keys=batch.image_keys,
                caption_keys=keys,
                duplicates=loss.duplicates,
                mesh=mesh,
            )
            for text_embeddings, keys in captions
        ]
        return sum(values[1:], values[0]), [text_embeddings for text_embeddings, _ in captions]

    def recall(batch: Batch, text_embeddings: list[jax.Array]) -> dict[str, jax.Array]:
        keys = _of_each_caption(batch.caption_keys)
        found = [
            in_batch_recall(
                batch.image_embeddings.astype(jnp.float32),
                text,
                image_keys=batch.image_keys,
                caption_keys=own,
                duplicates=loss.duplicates,
                mesh=mesh,
            )
            for text, own in zip(text_embeddings, keys, strict=True)
        ]
        return jax.tree.map(lambda *each: sum(each) / len(each), *found)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (value, text_embeddings), gradients = jax.value_and_grad(loss_and_text, has_aux=True)(
            state.params, batch, key
        )
        gradients = in_place(gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = None
        if average_decay is not None:
            average = optax.incremental_update(params, state.average, 1.0 - average_decay)
        number = state.step + 1
        found = jax.lax.cond(
            (number % log_every == 0) | (number == 1),
            recall,
            lambda *_: {"i2t": jnp.float32(jnp.nan), "t2i": jnp.float32(jnp.nan)},
            batch,
            text_embeddings,
        )
        metrics = {
            "loss": value / len(text_embeddings),
            "grad_norm": optax.tree.norm(gradients),
            **{
                f"grad_norm_{name}": optax.tree.norm(gradients[name])
                for name in ("backbone", "head")
                if name in gradients
            },
            "logit_scale": jnp.exp(state.params["log_scale"]),
            "lr_factor": jnp.asarray(schedule(state.step), jnp.float32),
            "i2t_r1": found["i2t"],
            "t2i_r1": found["t2i"],
        }
        if "bias" in state.params:
            metrics["logit_bias"] = state.params["bias"]
        return TrainState(in_place(params), in_place(opt_state), number, in_place(average)), metrics

    options = compiler_options(compute_dtype)
    if mesh is None:
        return jax.jit(step, donate_argnums=0, compiler_options=options)
    # A state that is cut lies as `in_place` says; everything else is the same on all devices.
    out = (None if shard_parameters else replicated(mesh), replicated(mesh))
    return jax.jit(step, donate_argnums=0, out_shardings=out, compiler_options=options)


def _embed_captions(
    embed_text: EmbedText, params: dict[str, Any], batch: Batch, key: jax.Array
) -> list[tuple[jax.Array, jax.Array]]:
    """The embeddings [B, D] and keys [B, 2] of each of the captions an image has at once; in one pass of the tower."""
    keys = _of_each_caption(batch.caption_keys)
    if batch.caption_keys.ndim == 2:
        return [(embed_text(params, batch.text, key), keys[0])]
    rows, kinds = batch.text.shape[:2]
    together = embed_text(params, batch.text.reshape(rows * kinds, *batch.text.shape[2:]), key)
    apart = together.reshape(rows, kinds, -1)
    return [(apart[:, kind], keys[kind]) for kind in range(kinds)]


def _of_each_caption(keys: jax.Array) -> list[jax.Array]:
    """uint32 [B, 2] -> one [B, 2]; uint32 [B, K, 2] -> K of them."""
    return [keys] if keys.ndim == 2 else [keys[:, kind] for kind in range(keys.shape[1])]
