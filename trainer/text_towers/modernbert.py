"""ModernBERT: rotary positions, windows of attention, gated MLPs (arXiv 2412.13663)."""

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
class ModernBertConfig(TokenRows):
    """All that decides the forward pass, as kept in a run's `text_tower.json`."""

    vocab_size: int = 50_368
    width: int = 768
    depth: int = 22
    heads: int = 12
    mlp: int = 1_152  # of each of the two branches
    positions: int = 8_192  # longest row it was made for
    norm_eps: float = 1e-5
    activation: str = "gelu"
    window: int = 128  # a local layer's token sees half of it to either side
    global_layers: tuple[int, ...] = tuple(range(0, 22, 3))  # these see everything
    global_theta: float = 160_000.0  # base of the rotary angles
    local_theta: float = 10_000.0
    pool: str = "mean"
    pad_id: int = 50_283
    dropout: float = 0.0  # on the embeddings and on each branch; attention weights are never dropped
    compute_dtype: str = "float32"  # of the matrix products; parameters, sums and norms stay float32

    def __post_init__(self) -> None:
        object.__setattr__(self, "global_layers", tuple(self.global_layers))  # JSON gives a list
        check_activation(self.activation)
        check_pool(self.pool)
        if self.width % (2 * self.heads):
            raise ValueError(f"hidden_size: must divide by twice the {self.heads} heads, found {self.width}.")


def _norm(config: ModernBertConfig, name: str | None = None) -> nn.LayerNorm:
    return nn.LayerNorm(
        config.norm_eps, dtype=jnp.float32, use_bias=False, use_fast_variance=False, name=name
    )


class Layer(nn.Module):
    """A pre-norm block without biases; the first has no norm before its attention."""

    config: ModernBertConfig
    number: int

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, keys: jax.Array | None, *, place: int | None = None
    ) -> jax.Array:
        """x: float32 [B, L, H]; mask: bool [B, 1, 1, L]; keys: B dropout keys or None; place: the token that is wanted,
        [B, 1, H], or None for all.
        """
        config, everywhere = self.config, self.number in self.config.global_layers
        dense = partial(Dense, use_bias=False, dtype=jnp.dtype(config.compute_dtype))
        length, head_width = x.shape[1], config.width // config.heads
        y = _norm(config, "attn_norm")(x) if self.number else x
        packed = dense(3 * config.width, name="Wqkv")(y)
        packed = packed.reshape(*x.shape[:2], 3, config.heads, head_width)
        angles = rotary_angles(length, head_width, config.global_theta if everywhere else config.local_theta)
        query, key = (rotated(packed[:, :, i], angles) for i in range(2))
        if not everywhere:
            places = np.arange(length)
            near = np.abs(places[:, None] - places[None, :]) <= config.window // 2
            mask = mask & (near if place is None else near[place])
        heard = attend(tokens_at(query, place), key, packed[:, :, 2], head_width**-0.5, mask)
        site = 1 + 2 * self.number
        x = tokens_at(x, place) + row_dropout(
            dense(config.width, name="attn_Wo")(heard), keys, site, config.dropout
        )
        shaped, gate = jnp.split(dense(2 * config.mlp, name="Wi")(_norm(config, "mlp_norm")(x)), 2, axis=-1)
        y = dense(config.width, name="mlp_Wo")(ACTIVATIONS[config.activation](shaped) * gate)
        return x + row_dropout(y, keys, site + 1, config.dropout)


class ModernBert(nn.Module):
    """Tokens to one pooled vector."""

    config: ModernBertConfig

    def setup(self) -> None:
        config = self.config
        self.word = nn.Embed(config.vocab_size, config.width)
        self.embeddings_norm = _norm(config)
        self.layer = [Layer(config, i) for i in range(config.depth)]
        self.final_norm = _norm(config)

    def hidden(self, tokens: jax.Array, mask: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """The last hidden states, normed: tokens int32 [B, L], mask bool [B, L] → float32 [B, L, H], or [B, 1, H] where
        the first token alone is pooled.
        """
        x = row_dropout(self.embeddings_norm(self.word(tokens)), keys, 0, self.config.dropout)
        *layers, last = self.layer
        for layer in layers:
            x = layer(x, mask[:, None, None, :], keys)
        return self.final_norm(last(x, mask[:, None, None, :], keys, place=place_of(self.config.pool)))

    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Tokens int32 [B, L], padded on the right with `pad_id`, to float32 [B, H]."""
        mask = real_tokens(tokens, self.config.pad_id)
        return pooled(self.hidden(tokens, mask, keys), mask, self.config.pool)


def rotary_angles(length: int, head_width: int, theta: float) -> np.ndarray:
    """position * theta^(-2j / e): float32 [L, e], the e/2 angles twice."""
    frequencies = 1.0 / theta ** (np.arange(0, head_width, 2, dtype=np.float32) / head_width)
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies.astype(np.float32)[None, :]
    return np.concatenate([angles, angles], axis=1)


def rotated(x: jax.Array, angles: np.ndarray) -> jax.Array:
    """Each pair (x_j, x_{j + e/2}) turned by its angle: [B, L, heads, e], computed in float32."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    return (x.astype(jnp.float32) * cos + turned * sin).astype(x.dtype)


def start(order: Order) -> Start:
    """The encoder of a ModernBERT folder.

    Raises:
        ValueError: it is another kind of checkpoint, or its tensors do not fit: all are named at once.
    """
    checkpoint, flags = order.published(), order.config
    hf = checkpoint.configured(["modernbert"])
    assert checkpoint.folder is not None
    biased = [key for key in ("norm_bias", "attention_bias", "mlp_bias") if hf.get(key)]
    if biased:
        raise ValueError(
            f"{checkpoint.source}/config.json: this tower has no biases, found {', '.join(biased)} set."
        )
    tokenizer = order.tokenizer()
    config = dataclasses.replace(
        _config(hf),
        pool=flags.text_pool or pool_of(checkpoint.folder, "mean"),
        pad_id=tokenizer.pad_id,
        dropout=flags.text_dropout,
        compute_dtype=flags.compute_dtype,
    )
    tensors = renamed(checkpoint.tensors, _spelling, checkpoint.source)
    params = from_torch(tensors, ModernBert(config), published_name, checkpoint.source)
    return Start(ModernBert(config), params, tokenizer, exported_head(checkpoint.folder, config.width))


_FIELDS = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "positions": "max_position_embeddings",
    "norm_eps": "norm_eps",
    "activation": "hidden_activation",
    "window": "local_attention",
    "global_theta": "global_rope_theta",
    "local_theta": "local_rope_theta",
}
_TENSORS = {
    "word": "embeddings.tok_embeddings",
    "embeddings_norm": "embeddings.norm",
    "final_norm": "final_norm",
}
_LAYER_TENSORS = {
    "attn_norm": "attn_norm",
    "Wqkv": "attn.Wqkv",
    "attn_Wo": "attn.Wo",
    "mlp_norm": "mlp_norm",
    "Wi": "mlp.Wi",
    "mlp_Wo": "mlp.Wo",
}


def _config(hf: Mapping[str, Any]) -> ModernBertConfig:
    """From `config.json`, as transformers 4 or 5 wrote it; absent keys mean the class defaults."""
    found = {ours: hf[theirs] for ours, theirs in _FIELDS.items() if hf.get(theirs) is not None}
    depth = found.get("depth", ModernBertConfig.depth)
    if "layer_types" in hf:
        found["global_layers"] = [i for i, kind in enumerate(hf["layer_types"]) if kind == "full_attention"]
    else:
        found["global_layers"] = range(0, depth, hf.get("global_attn_every_n_layers", 3))
    for ours, kind in (("global_theta", "full_attention"), ("local_theta", "sliding_attention")):
        if kind in (hf.get("rope_parameters") or {}):
            found[ours] = hf["rope_parameters"][kind]["rope_theta"]
    return ModernBertConfig(**found)


def to_folder(tower: TextTower) -> FolderForm:
    """A tower as ModernBertModel, in the words of transformers 4 and 5."""
    config: ModernBertConfig = tower.backbone.config
    kinds = {True: "full_attention", False: "sliding_attention"}
    thetas = {"full_attention": config.global_theta, "sliding_attention": config.local_theta}
    hf = {
        "architectures": ["ModernBertModel"],
        "model_type": "modernbert",
        **{theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()},
        "layer_types": [kinds[number in config.global_layers] for number in range(config.depth)],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()
        },
        "pad_token_id": config.pad_id,
        **dict.fromkeys(
            ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
        ),  # the tokenizer's business
        **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias"), False),
        **dict.fromkeys(("attention_dropout", "embedding_dropout", "mlp_dropout"), 0.0),
    }
    every = [*config.global_layers, config.depth][1]  # transformers 4 knows no other pattern
    if config.global_layers == tuple(range(0, config.depth, every)):
        hf["global_attn_every_n_layers"] = every
    return FolderForm(hf, to_torch(tower.params["backbone"], published_name), config.pool)


def published_name(path: Path) -> str:
    """The checkpoint's name of a parameter, its prefix left out."""
    *modules, _ = path
    if modules[0].startswith("layer_"):
        return f"layers.{modules[0].removeprefix('layer_')}.{_LAYER_TENSORS[modules[1]]}.weight"
    return f"{_TENSORS[modules[0]]}.weight"


def _spelling(name: str) -> str | None:
    name = name.removeprefix("model.")
    return None if name.startswith(("head.", "decoder.", "classifier.")) else name


FAMILY = Family(start, lambda backbone: ModernBert(ModernBertConfig(**backbone)), to_folder=to_folder)
