"""ViT image towers (Google's ImageNet models and their like) as Hugging Face writes them."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import numpy as np

from lit_precompute.config import TowerConfig
from lit_precompute.towers.hf_layers import (
    ACTIVATIONS,
    BlockNames,
    Params,
    block,
    layer_norm,
    linear,
    patches,
    pooled,
    prepend,
    resample_positions,
)
from lit_precompute.towers.hf_model import (
    Family,
    check_pool,
    check_trained_size,
    finished,
    grid_of,
    open_model,
)
from lit_precompute.towers.hf_tensors import Shapes, dense, load_tensors, norm, strip_prefix, without
from lit_precompute.towers.last_block import wanted_tokens
from lit_precompute.towers.tower import RandomWeights, Tower, Weights

NAMES = BlockNames(
    norm1="layernorm_before",
    query="attention.attention.query",
    key="attention.attention.key",
    value="attention.attention.value",
    out="attention.output.dense",
    norm2="layernorm_after",
)
POSITIONS = "embeddings.position_embeddings"
PATCHES = "embeddings.patch_embeddings.projection"
HEADS = {"classifier": "classifier", "pooler": "pooler.dense"}
POOLS = ("cls", "mean", "cls+mean")


@dataclass(frozen=True)
class Facts:
    """A ViT. `head` and `head_size` are read from the file: `classifier`, `pooler` (a tanh layer) or none."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    patch_size: int = 16
    image_size: int = 224
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    pooler_act: str = "tanh"
    head: str = ""
    head_size: int = 0


FAMILY = Family(
    name="hf-vit",
    facts=Facts,
    sections={"vit": ""},
    presets={
        "hf-vit-b-16": Facts(),
        "hf-vit-b-32": Facts(patch_size=32),
        "hf-vit-l-16": Facts(1024, 24, 16, 4096),
        "hf-vit-l-32": Facts(1024, 24, 16, 4096, 32),
        "hf-vit-h-14": Facts(1280, 32, 16, 5120, 14),
    },
    processor=lambda facts: {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": facts.image_size, "width": facts.image_size},
    },
    defaults={},
)


def build(config: TowerConfig, weights: Weights) -> Tower:
    """The tower of a folder or a preset: logits of a classifier, else the pooler's output, else the class token.

    With `--features pre-head`, and with any `--pool`, what comes before both.

    Raises:
        ValueError: the folder is no ViT, does not fit the preset, or its tensors do not fit (all listed).
    """
    check_pool(config, POOLS)
    model = open_model(FAMILY, config, weights)
    facts, pool = _with_head(model.facts, weights), config.pool or "cls"
    check_trained_size(config, model.preprocess, facts.image_size, config.tower)
    params = load(facts, weights, grid_of(model.preprocess, facts.patch_size))
    if facts.head and (config.features == "pre-head" or config.pool):
        params = without(params, HEADS[facts.head])
        facts = replace(facts, head="", head_size=0)
    return finished(
        *(config, model, params, partial(embed, facts, pool)),
        family=FAMILY.name,
        facts=facts,
        features={"classifier": "head", "pooler": "pooler"}.get(facts.head, pool),
        dim=facts.head_size or facts.hidden_size * len(pool.split("+")),
    )


def _with_head(facts: Facts, weights: Weights) -> Facts:
    if not isinstance(weights, RandomWeights):
        for head, name in HEADS.items():
            if f"{name}.weight" in weights.tensors or f"{name}.bias" in weights.tensors:
                found = [weights.tensors.get(f"{name}.{part}") for part in ("bias", "weight")]
                sizes = [array.shape[0] for array in found if array is not None and array.ndim]
                return replace(facts, head=head, head_size=sizes[0] if sizes else 1)
    return replace(facts, head="", head_size=0)


def load(facts: Facts, weights: Weights, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """The tower's tensors, positions fitted to `grid`. The mask token served training only."""
    params = load_tensors(
        weights, tensor_shapes(facts), strip_prefix("vit."), lambda name: name.endswith("mask_token")
    )
    table = params[POSITIONS][0]
    params[POSITIONS] = np.concatenate([table[:1], resample_positions(table[1:], grid, antialias=False)])[
        None
    ]
    return params


def tensor_shapes(facts: Facts) -> Shapes:
    """Name and shape of every tensor."""
    width, side = facts.hidden_size, facts.image_size // facts.patch_size
    shapes: Shapes = {
        "embeddings.cls_token": (1, 1, width),
        POSITIONS: (1, side * side + 1, width),
        f"{PATCHES}.weight": (width, 3, facts.patch_size, facts.patch_size),
        f"{PATCHES}.bias": (width,),
    }
    for number in range(facts.num_hidden_layers):
        at = f"encoder.layer.{number}"
        for name in (NAMES.query, NAMES.key, NAMES.value):
            dense(shapes, f"{at}.{name}", width, width, facts.qkv_bias)
        dense(shapes, f"{at}.{NAMES.out}", width, width)
        for name in (NAMES.norm1, NAMES.norm2):
            norm(shapes, f"{at}.{name}", width)
        dense(shapes, f"{at}.intermediate.dense", facts.intermediate_size, width)
        dense(shapes, f"{at}.output.dense", width, facts.intermediate_size)
    norm(shapes, "layernorm", width)
    if facts.head:
        dense(shapes, HEADS[facts.head], facts.head_size, width)
    return shapes


def embed(facts: Facts, pool: str, params: Params, images: jax.Array) -> jax.Array:
    """Normalised images float32 [B, H, W, 3] -> float32 [B, D]."""
    x = prepend(params["embeddings.cls_token"], patches(params, PATCHES, images, facts.patch_size))
    x = x + params[POSITIONS]
    for number in range(facts.num_hidden_layers):
        at = f"encoder.layer.{number}"
        feed_forward = partial(_feed_forward, facts, params, at)
        x = block(
            *(params, at, x, NAMES, facts.num_attention_heads, facts.layer_norm_eps, feed_forward),
            wanted=wanted_tokens(number, facts.num_hidden_layers, pool),
        )
    x = pooled(layer_norm(params, "layernorm", x, facts.layer_norm_eps), pool, special=1)
    if not facts.head:
        return x
    x = linear(params, HEADS[facts.head], x)
    return ACTIVATIONS[facts.pooler_act](x) if facts.head == "pooler" else x


def _feed_forward(facts: Facts, params: Params, at: str, x: jax.Array) -> jax.Array:
    x = ACTIVATIONS[facts.hidden_act](linear(params, f"{at}.intermediate.dense", x))
    return linear(params, f"{at}.output.dense", x)
