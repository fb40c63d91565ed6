"""The contrastive loss of a batch of image and text embeddings.

With z_i and w_j the normalised embeddings, t the learned log-scale and b the learned bias, images stand in rows and
texts in columns of the logits

    S_ij = exp(t) z_i . w_j             (softmax)
    S_ij = exp(t) z_i . w_j + b         (sigmoid)

and the two losses of a batch of B pairs are

    softmax   1/2 mean_i (logsumexp_j S_ij - S_ii) + 1/2 mean_j (logsumexp_i S_ij - S_jj)      LiT, arXiv 2111.07991
    sigmoid   1/B sum_ij -log sigmoid(y_ij S_ij), y = +1 on the diagonal and -1 elsewhere      SigLIP, arXiv 2303.15343

both in float32, and both with three ways to treat pairs that show the same thing (`trainer.losses.duplicates`).
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from trainer.losses.duplicates import Duplicates, Keys, Relation, check_keys, relate
from trainer.losses.in_batch_recall import in_batch_recall
from trainer.losses.normalise import l2_normalise
from trainer.losses.objectives import LOWEST
from trainer.losses.sharded_loss import sharded_loss
from trainer.losses.tiled_loss import tiled_loss

__all__ = ["contrastive_loss", "in_batch_recall", "l2_normalise", "plain_loss", "split_keys"]

Kind = Literal["softmax", "sigmoid"]
KINDS: tuple[Kind, ...] = ("softmax", "sigmoid")

# Above this the plain form's B x B arrays (64 MiB each at 4096) cost more than computing the logits twice.
PLAIN_UP_TO = 2048
DEFAULT_TILE = 1024


def contrastive_loss(
    image_embeddings: Array,
    text_embeddings: Array,
    log_scale: Array,
    bias: Array | None = None,
    *,
    kind: Kind,
    image_keys: Array | None = None,
    caption_keys: Array | None = None,
    duplicates: Duplicates = "mask",
    tile: int | None = None,
    precision: str = "highest",
    mesh: Mesh | None = None,
) -> Array:
    """The loss of one batch from raw embeddings: plain for a small one, tiled for a large one, or over devices.

    Args:
        image_embeddings: any float dtype [B, D], not normalised; row i pairs with text row i.
        text_embeddings: any float dtype [B, D], not normalised.
        log_scale: float32 [], the natural logarithm of the logits' scale.
        bias: float32 [], added to the sigmoid's logits; the softmax does not depend on it.
        kind: "softmax" or "sigmoid".
        image_keys: uint32 [B, 2], equal where two rows show the same image; see `split_keys`.
        caption_keys: uint32 [B, 2], equal where two rows hold the same caption.
        duplicates: "mask", "positive" or "ignore"; see `trainer.losses.duplicates`.
        tile: None chooses: the plain form up to 2048 rows, above that tiles of 1024. A number asks for the tiled form
            with tiles of that side, whatever B; it need not divide B.
        precision: of the matrix products, as JAX names it. "highest" is float32 on every device.
        mesh: the devices that the rows of all [B, ...] arguments lie along (`trainer.devices.mesh`), always
            tiled; None: one.

    Returns:
        float32 []. Differentiable with respect to both embeddings, log_scale and bias; the tiled forms in reverse mode
        only, to first order.

    Raises:
        ValueError: for shapes that do not fit, an unknown kind or mode, a sigmoid without a bias, missing keys, or a
            B that the devices cannot share evenly.

    Example:
        >>> contrastive_loss(image, text, jnp.log(10.0), kind="softmax", duplicates="ignore")
    """
    _check_embeddings(image_embeddings, text_embeddings)
    batch_size = image_embeddings.shape[0]
    duplicates = check_keys(duplicates, batch_size, image_keys, caption_keys)
    if kind not in KINDS:
        raise ValueError(f"kind: must be one of {', '.join(KINDS)}; found {kind!r}")
    if kind == "sigmoid" and bias is None:
        raise ValueError("the sigmoid loss must have a bias; found None. Give bias=jnp.float32(-10.0)")
    if tile is not None and tile < 1:
        raise ValueError(f"tile: must be at least 1, or None for the default; found {tile}")
    keys = Keys(jnp.arange(batch_size, dtype=jnp.int32), image_keys, caption_keys)
    log_scale = jnp.asarray(log_scale, jnp.float32)
    # The softmax does not feel a constant added to every logit; leaving it out spares float32 the rounding.
    bias = jnp.asarray(bias if kind == "sigmoid" else 0.0, jnp.float32)
    arguments = (image_embeddings, text_embeddings, log_scale, bias, keys, kind, duplicates)
    if mesh is not None:
        return sharded_loss(*arguments, tile or DEFAULT_TILE, precision, mesh)
    if tile is None and batch_size <= PLAIN_UP_TO:
        return plain_loss(*arguments, precision)
    return tiled_loss(*arguments, min(tile or DEFAULT_TILE, batch_size), precision)


def plain_loss(
    image_embeddings: Array,
    text_embeddings: Array,
    log_scale: Array,
    bias: Array,
    keys: Keys,
    kind: Kind,
    duplicates: Duplicates,
    precision: str = "highest",
) -> Array:
    """The loss as the equations say it, with all B x B logits at once; arguments as for `contrastive_loss`."""
    z, w = l2_normalise(image_embeddings), l2_normalise(text_embeddings)
    logits = jnp.exp(log_scale) * jnp.matmul(z, w.T, precision=precision)  # [B, D] @ [D, B] -> [B, B]
    relation = relate(keys, keys, duplicates)
    if kind == "softmax":
        return 0.5 * (_cross_entropy(logits, relation, axis=1) + _cross_entropy(logits, relation, axis=0))
    signed = jnp.where(relation.target, logits + bias, -(logits + bias))
    return jnp.sum(jnp.where(relation.keep, -jax.nn.log_sigmoid(signed), 0.0)) / len(z)


def _cross_entropy(logits: Array, relation: Relation, axis: int) -> Array:
    """Mean of logsumexp_j S_ij less the mean of row i's positives, the own logit kept apart from all others.

    A trained row's loss is tiny while its log-sum-exp and its own logit are not: their difference would be rounding,
    softplus(logsumexp_{j != i} S_ij - S_ii) is not. For the same reason a lone positive has the weight 0 after it,
    rather than a +S_ii that meets a -S_ii.
    """
    twins = relation.target & ~relation.own
    share = 1.0 / (1.0 + jnp.sum(twins, axis=axis))
    own = jnp.sum(jnp.where(relation.own, logits, 0.0), axis=axis)
    others = jax.nn.logsumexp(jnp.where(relation.keep & ~relation.own, logits, LOWEST), axis=axis)
    aim = jnp.sum(jnp.where(twins, logits, 0.0), axis=axis)
    return jnp.mean(jax.nn.softplus(others - own) + (1.0 - share) * own - share * aim)


def split_keys(keys: np.ndarray) -> np.ndarray:
    """Splits uint64 [...] keys into the uint32 [..., 2] words the loss compares (low word first)."""
    keys = np.asarray(keys, "<u8")  # as almost every machine holds them: nothing is copied
    return keys[..., None].view("<u4").astype(np.uint32, copy=False)


def _check_embeddings(image_embeddings: Array, text_embeddings: Array) -> None:
    if image_embeddings.ndim != 2 or image_embeddings.shape != text_embeddings.shape:
        raise ValueError(
            "image_embeddings and text_embeddings must both be [B, D] with the same B and D; found "
            f"{list(image_embeddings.shape)} and {list(text_embeddings.shape)}"
        )
