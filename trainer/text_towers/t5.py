"""The encoders of T5 and mT5."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from trainer.text_towers.activations import ACTIVATIONS, check_activation
from trainer.text_towers.attention import attend
from trainer.text_towers.checkpoint import exported_head, pool_of
from trainer.text_towers.family import Family, FolderForm, Order, Start
from trainer.text_towers.pooling import check_pool, place_of, pooled, real_tokens, tokens_at
from trainer.text_towers.products import Dense
from trainer.text_towers.row_dropout import row_dropout
from trainer.text_towers.token_rows import TokenRows
from trainer.text_towers.torch_layout import Path, from_torch, renamed, to_torch
from trainer.text_towers.tower import TextTower


@dataclasses.dataclass(frozen=True)
class T5Config(TokenRows):
    """All that decides the forward pass, as kept in a run's `text_tower.json`."""

    vocab_size: int = 32_128
    width: int = 512
    depth: int = 6
    heads: int = 8
    head_width: int = 64  # heads * head_width need not be width
    mlp: int = 2_048
    buckets: int = 32  # of distances between tokens; half of them forward
    max_distance: int = 128  # beyond it all are alike
    norm_eps: float = 1e-6
    activation: str = "relu"
    gated: bool = False  # the MLP multiplies by a second branch (T5 1.1, mT5)
    pool: str = "mean"
    pad_id: int = 0
    dropout: float = 0.0  # on the embeddings and on each branch; attention weights are never dropped
    compute_dtype: str = "float32"  # of the matrix products; parameters, sums and norms stay float32

    def __post_init__(self) -> None:
        check_activation(self.activation)
        check_pool(self.pool)

    @property
    def max_length(self) -> None:
        """The longest row of tokens: any, there is no table of positions."""
        return None


class Layer(nn.Module):
    """A pre-norm block without biases: x += attention(rms(x)), then x += mlp(rms(x))."""

    config: T5Config
    site: int  # number of its first dropout

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        bias: jax.Array,
        keys: jax.Array | None,
        *,
        place: int | None = None,
    ) -> jax.Array:
        """x: float32 [B, L, H]; mask: bool [B, 1, 1, L]; bias: float32 [1, heads, L, L]; keys: B keys or None; place:
        the token that is wanted, [B, 1, H], or None for all.
        """
        config = self.config
        dense = partial(Dense, use_bias=False, dtype=jnp.dtype(config.compute_dtype))
        norm = partial(nn.RMSNorm, config.norm_eps, dtype=jnp.float32)

        def heads(y: jax.Array, name: str) -> jax.Array:
            split = dense(config.heads * config.head_width, name=name)(y)
            return split.reshape(*y.shape[:2], config.heads, config.head_width)

        y = norm(name="attention_norm")(x)
        key, value = heads(y, "key"), heads(y, "value")
        if place is not None:
            x, y, bias = tokens_at(x, place), tokens_at(y, place), bias[:, :, place : place + 1]
        heard = attend(heads(y, "query"), key, value, 1.0, mask, bias)  # the scale is in the weights
        x = x + row_dropout(dense(config.width, name="out")(heard), keys, self.site, config.dropout)
        y = norm(name="mlp_norm")(x)
        act = ACTIVATIONS[config.activation]
        if config.gated:
            y = act(dense(config.mlp, name="wi_0")(y)) * dense(config.mlp, name="wi_1")(y)
        else:
            y = act(dense(config.mlp, name="wi")(y))
        return x + row_dropout(dense(config.width, name="wo")(y), keys, self.site + 1, config.dropout)


class T5(nn.Module):
    """Tokens to one pooled vector."""

    config: T5Config

    def setup(self) -> None:
        config = self.config
        self.word = nn.Embed(config.vocab_size, config.width)
        self.distance = nn.Embed(config.buckets, config.heads)  # one table for all layers
        self.layer = [Layer(config, 1 + 2 * i) for i in range(config.depth)]
        self.final_norm = nn.RMSNorm(config.norm_eps, dtype=jnp.float32)

    def hidden(self, tokens: jax.Array, mask: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """The last hidden states: tokens int32 [B, L], mask bool [B, L] → float32 [B, L, H], or [B, 1, H] where the
        first token alone is pooled.
        """
        config = self.config
        places = distance_buckets(tokens.shape[1], config.buckets, config.max_distance)
        bias = self.distance(places).transpose(2, 0, 1)[None]
        x = row_dropout(self.word(tokens), keys, 0, config.dropout)
        *layers, last = self.layer
        for layer in layers:
            x = layer(x, mask[:, None, None, :], bias, keys)
        return self.final_norm(last(x, mask[:, None, None, :], bias, keys, place=place_of(config.pool)))

    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Tokens int32 [B, L], padded on the right with `pad_id`, to float32 [B, H]."""
        mask = real_tokens(tokens, self.config.pad_id)
        return pooled(self.hidden(tokens, mask, keys), mask, self.config.pool)


def distance_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of key minus query: exact near by, then by logarithm, one half for keys ahead (arXiv 1910.10683, 2.1).

    Returns:
        int32 [L, L], query in rows.
    """
    ahead = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    far = np.abs(ahead)
    # float32 as the reference: the logarithms of 1, 2, 4 … stand on the borders of the buckets
    logarithm = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact))
    steps = logarithm / np.float32(np.log(max_distance / exact)) * np.float32(half - exact)
    bucket = np.where(far < exact, far, np.minimum(exact + steps.astype(np.int32), half - 1))
    return (bucket + np.where(ahead > 0, half, 0)).astype(np.int32)


def start(order: Order) -> Start:
    """The encoder of a T5 or mT5 folder, whole or saved alone.

    Raises:
        ValueError: it is another kind of checkpoint, or its tensors do not fit: all are named at once.
    """
    checkpoint, flags = order.published(), order.config
    hf = checkpoint.configured(["t5", "mt5"])
    assert checkpoint.folder is not None
    tokenizer = order.tokenizer()
    config = dataclasses.replace(
        _config(hf),
        pool=flags.text_pool or pool_of(checkpoint.folder, "mean"),
        pad_id=tokenizer.pad_id,
        dropout=flags.text_dropout,
        compute_dtype=flags.compute_dtype,
    )
    tensors = renamed(_one_table(checkpoint.tensors), _spelling, checkpoint.source)
    params = from_torch(tensors, T5(config), published_name, checkpoint.source)
    return Start(T5(config), params, tokenizer, exported_head(checkpoint.folder, config.width))


_FIELDS = {
    "vocab_size": "vocab_size",
    "width": "d_model",
    "depth": "num_layers",
    "heads": "num_heads",
    "head_width": "d_kv",
    "mlp": "d_ff",
    "buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "norm_eps": "layer_norm_epsilon",
}
_MT5 = T5Config(vocab_size=250_112, depth=8, heads=6, mlp=1_024)  # what its config.json may leave out
_MLPS = {"relu": ("relu", False), "gated-gelu": ("gelu_new", True)}
_LAYER_TENSORS = {
    "attention_norm": "layer.0.layer_norm",
    "query": "layer.0.SelfAttention.q",
    "key": "layer.0.SelfAttention.k",
    "value": "layer.0.SelfAttention.v",
    "out": "layer.0.SelfAttention.o",
    "mlp_norm": "layer.1.layer_norm",
    **{name: f"layer.1.DenseReluDense.{name}" for name in ("wi", "wi_0", "wi_1", "wo")},
}
_TENSORS = {
    "word": "shared",
    "distance": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "final_norm": "encoder.final_layer_norm",
}


def _config(hf: Mapping[str, Any]) -> T5Config:
    """From `config.json`, whose absent keys mean the class defaults."""
    base = T5Config() if hf["model_type"] == "t5" else _MT5
    projection = hf.get("feed_forward_proj", "relu" if hf["model_type"] == "t5" else "gated-gelu")
    if projection not in _MLPS:
        raise ValueError(
            f"config.json: feed_forward_proj must be one of {sorted(_MLPS)}, found {projection!r}."
        )
    activation, gated = _MLPS[projection]
    found = {ours: hf[theirs] for ours, theirs in _FIELDS.items() if theirs in hf}
    return dataclasses.replace(base, **found, activation=activation, gated=gated)


def to_folder(tower: TextTower) -> FolderForm:
    """The encoder of T5 or mT5, which differ in nothing that `config.json` does not say, as T5EncoderModel."""
    config: T5Config = tower.backbone.config
    projections = {mlp: name for name, mlp in _MLPS.items()}
    hf = {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        **{theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()},
        "feed_forward_proj": projections[config.activation, config.gated],
        "dropout_rate": config.dropout,
        "pad_token_id": config.pad_id,
        "is_encoder_decoder": False,
        "use_cache": False,
    }
    return FolderForm(hf, to_torch(tower.params["backbone"], published_name), config.pool)


def published_name(path: Path) -> str:
    """The checkpoint's name of a parameter."""
    *modules, _ = path
    if modules[0].startswith("layer_"):
        return f"encoder.block.{modules[0].removeprefix('layer_')}.{_LAYER_TENSORS[modules[1]]}.weight"
    return f"{_TENSORS[modules[0]]}.weight"


def _one_table(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Word embeddings may be there twice, once as the encoder's; they are one tensor."""
    found = dict(tensors)
    again = found.pop("encoder.embed_tokens.weight", None)
    if again is not None and not np.array_equal(found.setdefault("shared.weight", again), again):
        found["encoder.embed_tokens.weight"] = again  # a surplus tensor: refused by name
    return found


def _spelling(name: str) -> str | None:
    return None if name.startswith(("decoder.", "lm_head.")) else name


FAMILY = Family(start, lambda backbone: T5(T5Config(**backbone)), to_folder=to_folder)
