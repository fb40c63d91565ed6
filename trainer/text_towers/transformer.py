"""The text transformer of LiT's later models and of SigLIP, here also trained from scratch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from trainer.text_towers.activations import tanh_gelu
from trainer.text_towers.attention import attend
from trainer.text_towers.fitting import refuse_misfits
from trainer.text_towers.initial import normal, xavier_uniform
from trainer.text_towers.pooling import Place, masked_mean, real_tokens, tokens_at
from trainer.text_towers.products import Dense, DenseGeneral
from trainer.text_towers.row_dropout import row_dropout
from trainer.text_towers.token_rows import TokenRows
from trainer.text_towers.torch_layout import parameter_shapes

POOLS = ("mean", "max", "first", "last", "map")
_REFERENCE_POOLS = {"gap": "mean", "gmp": "max"}  # the reference's other names


@dataclasses.dataclass(frozen=True)
class TransformerConfig(TokenRows):
    """All that decides the forward pass, as kept in a run's `text_tower.json`."""

    vocab_size: int
    positions: int  # length of the position table; rows of tokens may be shorter where pads are masked
    width: int = 256
    depth: int = 4
    heads: int = 4
    mlp: int = 1_024
    pool: str = "mean"
    # False is the reference: every token is looked at and pooled, padding too, so a caption's vector depends
    # on the row length, and "last" is the last position rather than the last real token.
    mask_pads: bool = True
    pad_id: int = 0
    dropout: float = 0.0  # on the embeddings and on each branch; attention weights are never dropped
    compute_dtype: str = "float32"  # of the matrix products; parameters, sums and norms stay float32

    def __post_init__(self) -> None:
        object.__setattr__(self, "pool", _REFERENCE_POOLS.get(self.pool, self.pool))
        if self.pool not in POOLS:
            raise ValueError(
                f"text_pool: the transformer pools by one of {list(POOLS)}, found {self.pool!r}."
            )
        if self.width % self.heads:
            raise ValueError(f"text_width: must divide by text_heads={self.heads}, found {self.width}.")

    @property
    def fixed_length(self) -> bool:
        """Whether all rows must be as long: where padding is looked at."""
        return not self.mask_pads

    @property
    def blind_to_padding(self) -> bool:
        """Whether a row means the same without the padding behind it."""
        return self.mask_pads


class Attention(nn.Module):
    """Attention with a bias everywhere, scaled by 1 / sqrt(head width)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, asking: jax.Array, heard: jax.Array, mask: jax.Array | None) -> jax.Array:
        """asking: float32 [B, Q, W]; heard: float32 [B, L, W]; mask: bool [B, L] over heard → [B, Q, W]."""
        config = self.config
        dtype = jnp.dtype(config.compute_dtype)

        def heads(name: str) -> nn.DenseGeneral:
            split = (config.heads, config.width // config.heads)
            return DenseGeneral(split, dtype=dtype, name=name)

        query, key, value = heads("query")(asking), heads("key")(heard), heads("value")(heard)
        where = None if mask is None else mask[:, None, None, :]
        mixed = attend(query, key, value, query.shape[-1] ** -0.5, where)
        out = DenseGeneral(config.width, axis=(-2, -1), dtype=dtype, name="out")
        return out(mixed.reshape(*query.shape[:2], *value.shape[2:]))


class Mlp(nn.Module):
    """Dense → GELU in its tanh form → Dense."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = jnp.dtype(self.config.compute_dtype)

        hidden = tanh_gelu(Dense(self.config.mlp, dtype=dtype, name="Dense_0")(x))
        return Dense(self.config.width, dtype=dtype, name="Dense_1")(hidden)


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(1e-6, dtype=jnp.float32, use_fast_variance=False, name=name)


class Block(nn.Module):
    """A pre-norm block: x += attention(LN(x)), then x += mlp(LN(x))."""

    config: TransformerConfig
    site: int  # number of its first dropout

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None, keys: jax.Array | None, *, place: Place = None
    ) -> jax.Array:
        """float32 [B, L, W] → [B, L, W], or [B, 1, W] where one token is wanted."""
        rate = self.config.dropout
        y = _norm("LayerNorm_0")(x)
        y = Attention(self.config, name="MultiHeadDotProductAttention_0")(tokens_at(y, place), y, mask)
        x = tokens_at(x, place) + row_dropout(y, keys, self.site, rate)
        y = Mlp(self.config, name="MlpBlock_0")(_norm("LayerNorm_1")(x))
        return x + row_dropout(y, keys, self.site + 1, rate)


class Encoder(nn.Module):
    """The blocks and the norm behind them."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None, keys: jax.Array | None, place: Place = None
    ) -> jax.Array:
        """float32 [B, L, W] → [B, L, W], or [B, 1, W] where one token is wanted."""
        last = self.config.depth - 1
        for i in range(self.config.depth):
            block = Block(self.config, 1 + 2 * i, name=f"encoderblock_{i}")
            x = block(x, mask, keys, place=place if i == last else None)
        return _norm("encoder_norm")(x)


class MapHead(nn.Module):
    """Pooling by attention: one learned probe asks all tokens."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        probe = self.param("probe", nn.initializers.zeros, (1, 1, x.shape[-1]))
        probe = jnp.tile(probe, (x.shape[0], 1, 1))
        y = Attention(self.config, name="MultiHeadDotProductAttention_0")(probe, x, mask).astype(x.dtype)
        return (y + Mlp(self.config, name="MlpBlock_0")(_norm("LayerNorm_0")(y)))[:, 0]


class Transformer(nn.Module):
    """Tokens to one pooled vector; parameters are named as the reference names them, its head left out.

    Their initial values come from `init_transformer`, not from the module.
    """

    config: TransformerConfig

    @nn.compact
    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """The pooled features.

        Args:
            tokens: int32 [B, L], padded on the right with `pad_id`.
            keys: B dropout keys, or None for no dropout.

        Returns:
            float32 [B, width].

        Raises:
            ValueError: L does not fit the position table.
        """
        config = self.config
        length = tokens.shape[1]
        if length > config.positions or (length < config.positions and not config.mask_pads):
            bound = "at most" if config.mask_pads else "exactly"
            raise ValueError(f"tokens: rows must hold {bound} {config.positions}, found {length}.")
        table = (1, config.positions, config.width)
        positions = self.param("pos_embedding", nn.initializers.zeros, table)
        x = nn.Embed(config.vocab_size, config.width, name="Embed_0")(tokens) + positions[:, :length]
        x = row_dropout(x, keys, 0, config.dropout)
        mask = real_tokens(tokens, config.pad_id) if config.mask_pads else None
        counted = jnp.ones(tokens.shape, bool) if mask is None else mask
        x = Encoder(config, name="Encoder_0")(x, mask, keys, _place(counted, config.pool))
        match config.pool:
            case "map":
                return MapHead(config, name="MAPHead_0")(x, mask)
            case "mean":
                return masked_mean(x, counted)
            case "max":
                return jnp.where(counted[:, :, None], x, jnp.finfo(x.dtype).min).max(axis=1)
            case _:
                return x[:, 0]


def _place(mask: jax.Array, pool: str) -> Place:
    """Where the one token stands that is pooled; mask: bool [B, L], true up to the last real token."""
    if pool == "last":
        return jnp.maximum(mask.sum(axis=1) - 1, 0)
    return 0 if pool == "first" else None


def init_transformer(config: TransformerConfig, random: np.random.Generator) -> dict[str, Any]:
    """Parameters of `Transformer` at the start of its training, distributed as the reference's.

    Returns:
        Nested dict of float32 NumPy arrays.
    """
    values = {name: _initial(name, shape, config, random) for name, shape in sorted(_shapes(config).items())}
    return unflatten_dict(values, sep="/")


def _initial(
    name: str, shape: tuple[int, ...], config: TransformerConfig, random: np.random.Generator
) -> np.ndarray:
    width = config.width
    if name in ("Embed_0/embedding", "pos_embedding"):
        return normal(random, shape, width**-0.5)
    if name.endswith("probe"):
        return xavier_uniform(random, shape, 1, width)
    if name.endswith("kernel"):  # attention's are width × width, seen through their heads
        return xavier_uniform(random, shape, width, config.mlp if "MlpBlock_0" in name else width)
    if name.endswith("scale"):
        return np.ones(shape, np.float32)
    return normal(random, shape, 1e-6) if "MlpBlock_0" in name else np.zeros(shape, np.float32)


def _shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    shapes = parameter_shapes(Transformer(config), config.positions)
    return {"/".join(path): shape for path, shape in shapes.items()}


def to_params(tensors: Mapping[str, np.ndarray], config: TransformerConfig, source: str) -> dict[str, Any]:
    """The parameters of `Transformer` from those of a reference checkpoint.

    Args:
        tensors: by flat name (`Encoder_0/encoderblock_0/LayerNorm_0/scale`); blocks may be stacked under
            `encoderblock`; old files' second position table is added to the first. The head must be taken
            out before.
        config: decides which tensors must be there, in which shape.
        source: what to call the checkpoint in an error.

    Returns:
        Nested dict of float32 arrays.

    Raises:
        ValueError: names all missing, surplus and mis-shaped tensors, and those that are not floating point.
    """
    found = dict(tensors)
    for name in [name for name in found if name.startswith("Encoder_0/encoderblock/")]:
        rest = name.removeprefix("Encoder_0/encoderblock/")
        stacked = found.pop(name)
        found |= {f"Encoder_0/encoderblock_{i}/{rest}": stacked[i] for i in range(stacked.shape[0])}
    second = found.pop("Encoder_0/pos_embedding", None)
    if second is not None and "pos_embedding" in found:
        found["pos_embedding"] = found["pos_embedding"] + second
    shapes = _shapes(config)
    refuse_misfits(found, shapes, source)
    return unflatten_dict({name: np.array(found[name], np.float32) for name in shapes}, sep="/")
