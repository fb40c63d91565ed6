"""CLIP's text tower (OpenAI, LAION, DFN, MetaCLIP): causal blocks, read at the end token."""

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
from trainer.text_towers.checkpoint import exported_head
from trainer.text_towers.family import Family, FolderForm, Order, Start
from trainer.text_towers.pooling import tokens_at
from trainer.text_towers.products import Dense
from trainer.text_towers.row_dropout import row_dropout
from trainer.text_towers.token_rows import TokenRows
from trainer.text_towers.torch_layout import Path, from_torch, renamed, to_torch
from trainer.text_towers.tower import TextTower

LEGACY_EOS = (
    2  # what config.json of the first published models says; their end token is the highest id instead
)


@dataclasses.dataclass(frozen=True)
class ClipConfig(TokenRows):
    """All that decides the forward pass, as kept in a run's `text_tower.json`."""

    vocab_size: int = 49_408
    width: int = 512
    depth: int = 12
    heads: int = 8
    mlp: int = 2_048
    positions: int = 77
    norm_eps: float = 1e-5
    activation: str = "quick_gelu"
    # The vector is read at the first token of this id (at the first token of all where there is none). None: at the
    # first token of the highest id in the row.
    eos_id: int | None = 49_407
    pad_id: int = 49_407  # stands behind the end token, where the causal blocks never look from it
    dropout: float = 0.0  # on the embeddings and on each branch; attention weights are never dropped
    compute_dtype: str = "float32"  # of the matrix products; parameters, sums and norms stay float32

    def __post_init__(self) -> None:
        check_activation(self.activation)
        if self.width % self.heads:
            raise ValueError(f"hidden_size: must divide by {self.heads} heads, found {self.width}.")

    @property
    def blind_to_padding(self) -> bool:
        """Whether a row means the same without the padding behind it."""
        return False  # its first token ends the row


class Layer(nn.Module):
    """A pre-norm block: x += attention(LN(x)), each token looking back only, then x += mlp(LN(x))."""

    config: ClipConfig
    site: int  # number of its first dropout

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None, *, place: jax.Array | None = None) -> jax.Array:
        """x: float32 [B, L, H]; keys: B dropout keys or None; place: the token that is wanted, or None for all."""
        config = self.config
        dense = partial(Dense, dtype=jnp.dtype(config.compute_dtype))
        norm = partial(nn.LayerNorm, config.norm_eps, dtype=jnp.float32, use_fast_variance=False)

        def heads(y: jax.Array, name: str) -> jax.Array:
            split = dense(config.width, name=name)(y)
            return split.reshape(*y.shape[:2], config.heads, config.width // config.heads)

        y = norm(name="norm1")(x)
        key, value = heads(y, "key"), heads(y, "value")
        places = np.arange(x.shape[1])
        causal = places <= (places[:, None] if place is None else place[:, None, None, None])
        x, y = tokens_at(x, place), tokens_at(y, place)
        heard = attend(heads(y, "query"), key, value, key.shape[-1] ** -0.5, causal)
        x = x + row_dropout(dense(config.width, name="out")(heard), keys, self.site, config.dropout)
        y = dense(config.mlp, name="fc1")(norm(name="norm2")(x))
        y = dense(config.width, name="fc2")(ACTIVATIONS[config.activation](y))
        return x + row_dropout(y, keys, self.site + 1, config.dropout)


class Clip(nn.Module):
    """Tokens to the normed state at the end token; the projection behind it is the tower's head."""

    config: ClipConfig

    def setup(self) -> None:
        config = self.config
        self.word = nn.Embed(config.vocab_size, config.width)
        self.position = nn.Embed(config.positions, config.width)
        self.layer = [Layer(config, 1 + 2 * i) for i in range(config.depth)]
        self.final_norm = nn.LayerNorm(config.norm_eps, use_fast_variance=False)

    def hidden(
        self, tokens: jax.Array, keys: jax.Array | None = None, place: jax.Array | None = None
    ) -> jax.Array:
        """The last hidden states, normed: int32 [B, L], L at most `positions`, to float32 [B, L, H].

        With `place`, int32 [B], only those of each row's token there, [B, 1, H].

        Raises:
            ValueError: rows longer than the position table.
        """
        length = tokens.shape[1]
        if length > self.config.positions:
            raise ValueError(f"tokens: rows must hold at most {self.config.positions}, found {length}.")
        x = self.word(tokens) + self.position.embedding[:length]
        x = row_dropout(x, keys, 0, self.config.dropout)
        *layers, last = self.layer
        for layer in layers:
            x = layer(x, keys)
        return self.final_norm(last(x, keys, place=place))

    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Tokens int32 [B, L] to float32 [B, H]."""
        eos = self.config.eos_id
        place = jnp.argmax(tokens if eos is None else tokens == eos, axis=1)
        return self.hidden(tokens, keys, place)[:, 0]


def start(order: Order) -> Start:
    """The text half of a CLIPModel folder, or a text model on its own.

    Raises:
        ValueError: it is another kind of checkpoint, or its tensors do not fit: all are named at once.
    """
    checkpoint, flags = order.published(), order.config
    if flags.text_pool is not None:
        raise ValueError(
            f"text_pool: CLIP is read at its end token, found {flags.text_pool!r}. Leave it out."
        )
    hf = checkpoint.configured(["clip", "clip_text_model"])
    tokenizer = order.tokenizer()
    config = dataclasses.replace(
        _config(hf.get("text_config", {}) if hf["model_type"] == "clip" else hf),
        pad_id=tokenizer.pad_id,
        dropout=flags.text_dropout,
        compute_dtype=flags.compute_dtype,
    )
    tensors = renamed(checkpoint.tensors, _spelling, checkpoint.source)
    projection = tensors.pop("text_projection.weight", None)
    if projection is None and hf.get("architectures") != ["CLIPTextModel"]:
        raise ValueError(f"{checkpoint.source}: a CLIP must hold text_projection.weight, found none.")
    assert checkpoint.folder is not None
    if projection is None:
        head = exported_head(checkpoint.folder, config.width)
    else:
        head = {"kernel": np.array(projection.T, np.float32, order="C")}
    params = from_torch(tensors, Clip(config), published_name, checkpoint.source)
    return Start(Clip(config), params, tokenizer, head)


_FIELDS = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "positions": "max_position_embeddings",
    "norm_eps": "layer_norm_eps",
    "activation": "hidden_act",
    "eos_id": "eos_token_id",
}
_LAYER_TENSORS = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
_TENSORS = {
    "word": "embeddings.token_embedding",
    "position": "embeddings.position_embedding",
    "final_norm": "final_layer_norm",
}
_OTHER_HALF = ("vision_model.", "visual_projection.", "logit_scale", "logit_bias")


def _config(hf: Mapping[str, Any]) -> ClipConfig:
    """From the text half of `config.json`, whose absent keys mean the class defaults."""
    config = ClipConfig(**{ours: hf[theirs] for ours, theirs in _FIELDS.items() if theirs in hf})
    return dataclasses.replace(config, eos_id=None) if config.eos_id == LEGACY_EOS else config


def to_folder(tower: TextTower) -> FolderForm:
    """A tower as CLIPTextModelWithProjection, whose projection is its head; without one as CLIPTextModel."""
    config: ClipConfig = tower.backbone.config
    tensors = to_torch(tower.params["backbone"], lambda path: f"text_model.{published_name(path)}")
    head = tower.params.get("head", {})
    projected = set(head) == {"kernel"}  # the only kind that has a place there
    if projected:
        tensors["text_projection.weight"] = np.ascontiguousarray(np.asarray(head["kernel"]).T)
    hf = {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "model_type": "clip_text_model",
        **{theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()},
        "eos_token_id": LEGACY_EOS if config.eos_id is None else config.eos_id,
        "pad_token_id": config.pad_id,
        "bos_token_id": None,  # the tokenizer's business
        "projection_dim": tower.out_dim,
        "attention_dropout": 0.0,
    }
    return FolderForm(hf, tensors, None if projected else "lasttoken")


def published_name(path: Path) -> str:
    """The checkpoint's name of a parameter, its prefix left out."""
    *modules, leaf = path
    if modules[0].startswith("layer_"):
        stem = f"encoder.layers.{modules[0].removeprefix('layer_')}.{_LAYER_TENSORS[modules[1]]}"
    else:
        stem = _TENSORS[modules[0]]
    return f"{stem}.{'bias' if leaf == 'bias' else 'weight'}"


def _spelling(name: str) -> str | None:
    name = name.removeprefix("text_model.")
    return None if name.startswith(_OTHER_HALF) or name.endswith("position_ids") else name


FAMILY = Family(start, lambda backbone: Clip(ClipConfig(**backbone)), to_folder=to_folder)
