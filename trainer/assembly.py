"""What trains and how, put together from a configuration and a tower: parameters, optimizer, step, plan."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from trainer.config import DataConfig, TrainConfig
from trainer.data.batches import Batch
from trainer.devices.mesh import along_rows, lying
from trainer.devices.placement import make_in_place, places
from trainer.optim.modules import frozen_by
from trainer.optim.optimizer import make_optimizer, make_schedule
from trainer.step import EmbedText, TrainState, TrainStep, add_scale, init_state, make_step
from trainer.step_plan import StepPlan, count_flops, plan_step
from trainer.text_towers import TextTower
from trainer.text_towers.rematerialise import rematerialising


@dataclass(frozen=True)
class Assembly:
    """A run ready to take steps.

    Attributes:
        params: what trains, before the first step.
        optimizer: what moves it.
        step: does both.
        mesh: the devices; None: one.
        cut: whether the state is cut over them.
        keep_average: whether the state holds a running average of the parameters.
    """

    params: dict[str, Any]
    optimizer: optax.GradientTransformation
    step: TrainStep
    mesh: Mesh | None
    cut: bool
    keep_average: bool

    def first_state(self) -> TrainState:
        """The state before the first step, where it is to lie."""
        return make_in_place(self._state, self.params, self.mesh, self.cut)

    def state_shapes(self) -> TrainState:
        """The shapes of the state, with their places."""
        shapes = jax.eval_shape(self._state, self.params)
        if self.mesh is None:
            return shapes
        where = places(self.mesh, shapes, self.cut)
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, where
        )

    @property
    def _state(self) -> Any:
        return partial(init_state, optimizer=self.optimizer, keep_average=self.keep_average)


def assemble(config: TrainConfig, tower: TextTower, mesh: Mesh | None) -> Assembly:
    """Put a run together.

    Args:
        config: resolved.
        tower: before the first step.
        mesh: of the run's devices; None: one.

    Raises:
        ValueError: nothing is left to train, or a pattern matches nothing.
    """
    params, embed_text = _trained_part(tower, config)
    frozen = frozen_by(config.train, params)
    optimizer = make_optimizer(
        config.optimizer,
        params,
        config.steps,
        pretrained_backbone=config.text.text_checkpoint is not None or config.init is not None,
        frozen=frozen,
    )
    step = make_step(
        embed_text,
        config.loss,
        optimizer,
        make_schedule(config.optimizer, config.steps),
        config.seed,
        config.log_every,
        microbatch_size=config.microbatch_size,
        mesh=mesh,
        shard_parameters=config.shard_parameters,
        frozen=(*config.optimizer.frozen, *frozen),
        average_decay=config.optimizer.average_decay,
        compute_dtype=tower.compute_dtype,
    )
    average = config.optimizer.average_decay is not None
    return Assembly(params, optimizer, step, mesh, config.shard_parameters, average)


def _trained_part(tower: TextTower, config: TrainConfig) -> tuple[dict[str, Any], EmbedText]:
    """What trains of the tower and the loss, and how it embeds what the batch holds."""
    if config.head_alone:
        if not tower.params["head"]:
            raise ValueError(
                "train: head must have one to train, found a text tower whose features are its embeddings. Set "
                "--text-head new, or another --train."
            )
        params = add_scale({"head": tower.params["head"]}, config.loss)
        return params, lambda params, features, key, row_offset=0: tower.project(params["head"], features)
    params = add_scale(tower.params, config.loss)
    dropout = config.text.text_dropout > 0

    def embed(params: Any, tokens: jax.Array, key: jax.Array, row_offset: Any = 0, /) -> jax.Array:
        with rematerialising(config.rematerialise):
            return tower.embed(
                params, tokens, dropout_key=key if dropout else None, row_offset=row_offset if dropout else 0
            )

    return params, embed


def captions_of(data: DataConfig) -> int:
    """How many captions an image shows at once."""
    return len(data.caption_kinds) if data.caption_draw == "joint" else 1


def tokens_of_a_pair(config: TrainConfig) -> int | None:
    """What the text tower reads for a pair, padding included; None where it is given features."""
    return None if config.head_alone else config.data.max_text_length * captions_of(config.data)


def plan(assembly: Assembly, config: TrainConfig, tower: TextTower, dtype: np.dtype) -> StepPlan:
    """Compile the step for shapes alone, and say what it needs.

    Args:
        assembly: of the run.
        config: resolved.
        tower: of the run.
        dtype: of the stored embeddings.
    """
    batch, devices = _batch_shapes(assembly, config, tower, dtype)
    return plan_step(assembly.step, assembly.state_shapes(), batch, devices)


def step_flops(assembly: Assembly, config: TrainConfig, tower: TextTower, dtype: np.dtype) -> float:
    """Floating-point operations of a step's matrix products, on all devices; arguments as of `plan`."""
    batch, _ = _batch_shapes(assembly, config, tower, dtype)
    step: Any = assembly.step  # under jit
    return count_flops(step.trace(assembly.state_shapes(), batch).jaxpr)


def _batch_shapes(
    assembly: Assembly, config: TrainConfig, tower: TextTower, dtype: np.dtype
) -> tuple[Batch, int]:
    """A batch's shapes with their places, and how many devices there are."""
    rows, frozen, mesh = config.batch_size, config.head_alone, assembly.mesh
    width = tower.feature_dim if frozen else config.data.max_text_length
    joint = (captions_of(config.data),) if config.data.caption_draw == "joint" else ()
    batch = Batch(
        jax.ShapeDtypeStruct((rows, tower.out_dim), dtype),
        jax.ShapeDtypeStruct((rows, *joint, width), np.float32 if frozen else np.int32),
        jax.ShapeDtypeStruct((rows, 2), np.uint32),
        jax.ShapeDtypeStruct((rows, *joint, 2), np.uint32),
    )
    return (batch, 1) if mesh is None else (lying(along_rows(mesh), batch), mesh.size)
