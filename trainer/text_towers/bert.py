"""BERT as a text tower: the forward pass."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from trainer.text_towers.activations import ACTIVATIONS, check_activation
from trainer.text_towers.attention import attend
from trainer.text_towers.pooling import Place, check_pool, place_of, pooled, real_tokens, tokens_at
from trainer.text_towers.products import Dense
from trainer.text_towers.row_dropout import row_dropout
from trainer.text_towers.token_rows import TokenRows

POSITION_RULES = ("plain", "roberta")
SITES_PER_LAYER = 2  # places with dropout in a layer


@dataclasses.dataclass(frozen=True)
class BertConfig(TokenRows):
    """All that decides the forward pass, as kept in a run's `text_tower.json`."""

    vocab_size: int = 30_522
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3_072
    positions: int = 512  # rows of the position table
    # plain: a token's place in its row. roberta: pad_id + its place among the row's tokens that are not pads, counted
    # from 1, and pad_id for a pad; so rows are at most positions - pad_id - 1 long.
    position_rule: str = "plain"
    token_types: int = 2  # captions are all of type 0
    norm_eps: float = 1e-12
    activation: str = "gelu"
    pool: str = "mean"
    pad_id: int = 0
    # False: padding is what stands behind a row's last token. True is the reference: pad_id is padding anywhere.
    pads_inside: bool = False
    dropout: float = 0.0  # on the embeddings and on each branch; attention weights are never dropped
    compute_dtype: str = "float32"  # of the matrix products; parameters, sums and norms stay float32

    def __post_init__(self) -> None:
        check_activation(self.activation)
        if self.position_rule not in POSITION_RULES:
            raise ValueError(
                f"position_rule: must be one of {list(POSITION_RULES)}, found {self.position_rule!r}."
            )
        check_pool(self.pool)
        if self.width % self.heads:
            raise ValueError(f"hidden_size: must divide by {self.heads} heads, found {self.width}.")

    @property
    def max_length(self) -> int:
        """The longest row of tokens."""
        return self.positions - (self.pad_id + 1 if self.position_rule == "roberta" else 0)


class Layer(nn.Module):
    """A post-norm block: x = LN(x + attention(x)), then x = LN(x + mlp(x))."""

    config: BertConfig
    site: int  # number of its first dropout

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, keys: jax.Array | None, *, place: Place = None
    ) -> jax.Array:
        """x: float32 [B, L, H]; mask: bool [B, L], False at padding; keys: B dropout keys or None; place: the token
        that is wanted, [B, 1, H], or None for all.
        """
        config = self.config
        dtype = jnp.dtype(config.compute_dtype)

        def dense(features: int, name: str) -> nn.Dense:
            return Dense(features, dtype=dtype, name=name)

        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(config.norm_eps, dtype=jnp.float32, use_fast_variance=False, name=name)

        def heads(x: jax.Array, name: str) -> jax.Array:
            split = dense(config.width, name)(x)
            return split.reshape(*x.shape[:2], config.heads, config.width // config.heads)

        key, value = heads(x, "key"), heads(x, "value")
        x = tokens_at(x, place)
        heard = attend(heads(x, "query"), key, value, key.shape[-1] ** -0.5, mask[:, None, None, :])
        heard = dense(config.width, "attention_output")(heard)
        x = norm("attention_norm")(x + row_dropout(heard, keys, self.site, config.dropout))
        branch = dense(config.mlp, "intermediate")(x)
        branch = dense(config.width, "output")(ACTIVATIONS[config.activation](branch))
        return norm("output_norm")(x + row_dropout(branch, keys, self.site + 1, config.dropout))


class Bert(nn.Module):
    """Tokens to one pooled vector."""

    config: BertConfig

    def setup(self) -> None:
        config = self.config
        self.word = nn.Embed(config.vocab_size, config.width)
        self.position = nn.Embed(config.positions, config.width)
        self.token_type = nn.Embed(config.token_types, config.width)
        self.embeddings_norm = nn.LayerNorm(config.norm_eps, use_fast_variance=False)
        self.layer = [Layer(config, 1 + SITES_PER_LAYER * i) for i in range(config.depth)]

    def hidden(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        token_types: jax.Array | None = None,
        keys: jax.Array | None = None,
        place: Place = None,
    ) -> jax.Array:
        """The last hidden states.

        Args:
            tokens: int32 [B, L], L at most `max_length`.
            mask: bool [B, L], False where a token is not to be looked at; None looks at all.
            token_types: int32 [B, L]; None means all 0.
            keys: B dropout keys, or None for no dropout.
            place: of the token whose state is wanted; None for all.

        Returns:
            float32 [B, L, H] or [B, 1, H]; what stands at masked positions means nothing.

        Raises:
            ValueError: rows longer than the position table.
        """
        length = tokens.shape[1]
        if length > self.config.max_length:
            raise ValueError(f"tokens: rows must hold at most {self.config.max_length}, found {length}.")
        if mask is None:
            mask = jnp.ones(tokens.shape, bool)
        types = jnp.zeros((1, 1), jnp.int32) if token_types is None else token_types
        x = self.word(tokens) + self._positions(tokens) + self.token_type(types)
        x = row_dropout(self.embeddings_norm(x), keys, 0, self.config.dropout)
        *layers, last = self.layer
        for layer in layers:
            x = layer(x, mask, keys)
        return last(x, mask, keys, place=place)

    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Tokens int32 [B, L], padded on the right with `pad_id`, to float32 [B, H]."""
        pad = self.config.pad_id
        mask = tokens != pad if self.config.pads_inside else real_tokens(tokens, pad)
        hidden = self.hidden(tokens, mask, keys=keys, place=place_of(self.config.pool))
        return pooled(hidden, mask, self.config.pool)

    def _positions(self, tokens: jax.Array) -> jax.Array:
        """float32 [1 or B, L, H]."""
        if self.config.position_rule == "plain":
            return self.position.embedding[None, : tokens.shape[1]]
        real = (tokens != self.config.pad_id).astype(jnp.int32)
        return self.position(jnp.cumsum(real, axis=1) * real + self.config.pad_id)
