"""The contrastive loss of a batch that lies over many devices, without ever gathering it.

Device k of n holds the slices [B/n, D] of images and texts with their keys. Images stay where they are; texts go round
the ring with what is known of their columns (`trainer.devices.ring`), and each device sweeps tile by tile over its own
images and the texts that visit it (`trainer.losses.tiled_loss`). Once round for the loss, once for the gradient, when
the texts' gradient travels beside them. Nothing larger than [B/n, D] moves.

Value and gradients are those of one device; only the order in which numbers are added differs.
"""

from functools import partial
from typing import Any

import jax
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from trainer.devices.mesh import DATA, check_rows, on_each
from trainer.devices.ring import go_round
from trainer.losses.duplicates import Duplicates, Keys
from trainer.losses.objectives import OBJECTIVES
from trainer.losses.tiled_loss import backward_sweep, forward_sweep, start_gradients, through_normalise
from trainer.losses.tiles import Run, Settings


def sharded_loss(
    image_embeddings: Array,
    text_embeddings: Array,
    log_scale: Array,
    bias: Array,
    keys: Keys,
    kind: str,
    duplicates: Duplicates,
    tile: int,
    precision: str,
    mesh: Mesh,
) -> Array:
    """The loss of `trainer.losses.contrastive_loss` over the devices of a mesh; reverse mode, first order.

    Args:
        image_embeddings: any float dtype [B, D], not normalised, rows along the mesh axis `DATA`.
        text_embeddings: any float dtype [B, D], not normalised, likewise.
        log_scale: float32 [].
        bias: float32 []; 0 for the softmax.
        keys: the B pairs' keys, likewise; `place` counts through the whole batch.
        kind: "softmax" or "sigmoid".
        duplicates: "mask", "positive" or "ignore".
        tile: the largest side of a tile; a device's slice may be shorter.
        precision: of the matrix products.
        mesh: with an axis `DATA` whose size divides B.

    Returns:
        float32 [], the same on all devices.

    Raises:
        ValueError: B is not a multiple of the number of devices.
    """
    rows = image_embeddings.shape[0]
    check_rows(mesh, rows)
    settings = Settings(kind, duplicates, min(tile, rows // mesh.shape[DATA]), precision)
    return _loss(settings, mesh, image_embeddings, text_embeddings, log_scale, bias, keys)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(
    settings: Settings, mesh: Mesh, image: Array, text: Array, log_scale: Array, bias: Array, keys: Keys
) -> Array:
    return _forward(settings, mesh, image, text, log_scale, bias, keys)[0]


def _forward(
    settings: Settings, mesh: Mesh, image: Array, text: Array, log_scale: Array, bias: Array, keys: Keys
) -> tuple[Array, Any]:
    inputs = (image, text, log_scale, bias, keys)
    specs = (P(DATA), P(DATA), P(), P(), P(DATA))
    spread = on_each(mesh, partial(_local_forward, settings), specs, (P(), P(DATA), P(DATA)))
    total, rows, columns = spread(*inputs)
    return total / image.shape[0], (*inputs, rows, columns)


def _backward(settings: Settings, mesh: Mesh, residuals: Any, cotangent: Array) -> tuple[Any, ...]:
    specs = (P(DATA), P(DATA), P(), P(), P(DATA), P(DATA), P(DATA), P())
    spread = on_each(mesh, partial(_local_backward, settings), specs, (P(DATA), P(DATA), P(), P()))
    image = residuals[0]
    return *spread(*residuals, cotangent / image.shape[0]), None


_loss.defvjp(_forward, _backward)


def _local_forward(
    settings: Settings, image: Array, text: Array, log_scale: Array, bias: Array, keys: Keys
) -> tuple[Array, Any, Any]:
    """The loss times B, and the residuals of the device's own rows and columns."""
    objective, images = OBJECTIVES[settings.kind], Run(image, keys)

    def meet(texts: Run, rows: Any, columns: Any) -> tuple[Any, Any]:
        return forward_sweep(settings, images, texts, log_scale, bias, rows, columns)

    start = objective.start(image.shape[0])
    rows, columns = go_round(DATA, Run(text, keys), start, start, meet)
    total = lax.psum(objective.total(rows, columns), DATA)
    return total, objective.residual(rows), objective.residual(columns)


def _local_backward(
    settings: Settings,
    image: Array,
    text: Array,
    log_scale: Array,
    bias: Array,
    keys: Keys,
    rows: Any,
    columns: Any,
    weight: Array,
) -> tuple[Array, Array, Array, Array]:
    """The gradients of the device's own images and texts, and of log_scale and bias over all devices."""
    images, texts = Run(image, keys), Run(text, keys)

    def meet(guest: tuple[Run, Any], row_sums: Any, text_vectors: Array) -> tuple[Any, Array]:
        texts, columns = guest
        return backward_sweep(settings, images, texts, log_scale, bias, rows, columns, row_sums, text_vectors)

    row_sums, text_vectors = go_round(
        DATA, (texts, columns), start_gradients(image), start_gradients(text).vectors, meet
    )
    return (
        through_normalise(settings, images, row_sums.vectors, weight),
        through_normalise(settings, texts, text_vectors, weight),
        weight * lax.psum(row_sums.log_scale.sum(), DATA),
        weight * lax.psum(row_sums.bias.sum(), DATA),
    )
