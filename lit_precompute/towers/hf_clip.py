"""CLIP image towers (OpenAI, LAION, DFN, MetaCLIP) as Hugging Face writes them."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

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
    mlp,
    patches,
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
from lit_precompute.towers.hf_tensors import Shapes, dense, has_tensor, load_tensors, norm
from lit_precompute.towers.last_block import wanted_tokens
from lit_precompute.towers.tower import Tower, Weights
from schemas.model_folder import ModelFolder

NAMES = BlockNames(
    norm1="layer_norm1",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    out="self_attn.out_proj",
    norm2="layer_norm2",
)
PROJECTION = "visual_projection.weight"
POSITIONS = "vision_model.embeddings.position_embedding.weight"
TEXT_SIDE = ("text_model.", "text_projection.", "logit_scale", "logit_bias")


@dataclass(frozen=True)
class Facts:
    """A CLIP image tower; `projection_dim` 0 where nothing follows the pooled token."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    patch_size: int = 32
    image_size: int = 224
    projection_dim: int = 512
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


LARGE = Facts(1024, 24, 16, 4096, 14, 224, 768)

FAMILY = Family(
    name="clip",
    facts=Facts,
    sections={"clip": "vision_config", "clip_vision_model": ""},
    presets={
        "clip-vit-b-32": Facts(),
        "clip-vit-b-16": Facts(patch_size=16),
        "clip-vit-l-14": LARGE,
        "clip-vit-l-14-336": replace(LARGE, image_size=336),
        "clip-vit-h-14": Facts(1280, 32, 16, 5120, 14, 224, 1024, "gelu"),
    },
    processor=lambda facts: {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": facts.image_size},
        "crop_size": facts.image_size,
    },
    defaults={},
)


def build(config: TowerConfig, weights: Weights) -> Tower:
    """The tower of a folder or a preset: the projected class token, or with `--features pre-head` what enters it.

    Raises:
        ValueError: the folder is no CLIP, does not fit the preset, or its tensors do not fit (all listed).
    """
    check_pool(config, ("cls",))
    model = open_model(FAMILY, config, weights)
    facts = model.facts if has_projection(weights) else replace(model.facts, projection_dim=0)
    check_trained_size(config, model.preprocess, facts.image_size, config.tower)
    params = load(facts, weights, grid_of(model.preprocess, facts.patch_size))
    if config.features == "pre-head" and facts.projection_dim:
        facts = replace(facts, projection_dim=0)
        del params[PROJECTION]
    return finished(
        *(config, model, params, partial(embed, facts)),
        family=FAMILY.name,
        facts=facts,
        features="head" if facts.projection_dim else "pre-head",
        dim=facts.projection_dim or facts.hidden_size,
    )


def has_projection(weights: Weights) -> bool:
    """A bare CLIPVisionModel may lack the projection; in another file it is missing if it is not there."""
    bare = isinstance(weights, ModelFolder) and weights.config.get("architectures") == ["CLIPVisionModel"]
    return has_tensor(weights, PROJECTION) or not bare


def load(facts: Facts, weights: Weights, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """The tower's tensors, positions fitted to `grid`."""
    params = load_tensors(weights, tensor_shapes(facts), _full_name, _is_other)
    table = params[POSITIONS]
    params[POSITIONS] = np.concatenate([table[:1], resample_positions(table[1:], grid, antialias=False)])
    return params


def _full_name(name: str) -> str:
    """A tower saved on its own may come without the prefix."""
    bare = name.startswith(("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm."))
    return f"vision_model.{name}" if bare else name


def _is_other(name: str) -> bool:
    return name.startswith(TEXT_SIDE) or name.endswith("position_ids")


def tensor_shapes(facts: Facts) -> Shapes:
    """Name and shape of every tensor of the image tower."""
    width, side = facts.hidden_size, facts.image_size // facts.patch_size
    shapes: Shapes = {
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, facts.patch_size, facts.patch_size),
        POSITIONS: (side * side + 1, width),
    }
    norm(shapes, "vision_model.pre_layrnorm", width)
    encoder_shapes(shapes, facts.num_hidden_layers, width, facts.intermediate_size)
    norm(shapes, "vision_model.post_layernorm", width)
    if facts.projection_dim:
        shapes[PROJECTION] = (facts.projection_dim, width)
    return shapes


def encoder_shapes(shapes: Shapes, layers: int, width: int, hidden: int) -> None:
    """Adds the blocks, which SigLIP has alike."""
    for number in range(layers):
        at = f"vision_model.encoder.layers.{number}"
        for name in (NAMES.query, NAMES.key, NAMES.value, NAMES.out):
            dense(shapes, f"{at}.{name}", width, width)
        for name in (NAMES.norm1, NAMES.norm2):
            norm(shapes, f"{at}.{name}", width)
        dense(shapes, f"{at}.mlp.fc1", hidden, width)
        dense(shapes, f"{at}.mlp.fc2", width, hidden)


def encode(
    params: Params, x: jax.Array, facts: Any, pool: str = "", mask: jax.Array | None = None
) -> jax.Array:
    """All blocks, [B, L, d] -> [B, L, d], or [B, 1, d] where the `pool` is `cls`; `facts` of CLIP or SigLIP."""
    act, eps, depth = ACTIVATIONS[facts.hidden_act], facts.layer_norm_eps, facts.num_hidden_layers
    for number in range(depth):
        at = f"vision_model.encoder.layers.{number}"
        feed_forward = partial(mlp, params, f"{at}.mlp", act=act)
        wanted = wanted_tokens(number, depth, pool)
        x = block(params, at, x, NAMES, facts.num_attention_heads, eps, feed_forward, mask, wanted)
    return x


def embed(facts: Facts, params: Params, images: jax.Array) -> jax.Array:
    """Normalised images float32 [B, H, W, 3] -> float32 [B, D]."""
    at, eps = "vision_model.embeddings", facts.layer_norm_eps
    x = prepend(
        params[f"{at}.class_embedding"], patches(params, f"{at}.patch_embedding", images, facts.patch_size)
    )
    x = layer_norm(params, "vision_model.pre_layrnorm", x + params[POSITIONS], eps)
    x = encode(params, x, facts, "cls")[:, 0]  # not normalised before the token is taken
    x = layer_norm(params, "vision_model.post_layernorm", x, eps)
    return linear(params, "visual_projection", x) if facts.projection_dim else x
