"""SigLIP image towers, and SigLIP 2 ones of fixed resolution, as Hugging Face writes them."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lit_precompute.config import TowerConfig
from lit_precompute.towers.hf_clip import encode, encoder_shapes
from lit_precompute.towers.hf_layers import (
    ACTIVATIONS,
    Params,
    layer_norm,
    map_head,
    patches,
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
from lit_precompute.towers.hf_tensors import Shapes, dense, load_tensors, norm, without
from lit_precompute.towers.tower import Tower, Weights

POSITIONS = "vision_model.embeddings.position_embedding.weight"
HEAD = "vision_model.head"
TEXT_SIDE = ("text_model.", "logit_scale", "logit_bias")
TOP_LEVEL = ("embeddings.", "encoder.", "post_layernorm.", "head.")


@dataclass(frozen=True)
class Facts:
    """A SigLIP image tower; without `vision_use_head` there is nothing that pools, and the mean is taken."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    patch_size: int = 16
    image_size: int = 224
    vision_use_head: bool = True
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6


LARGE = Facts(1024, 24, 16, 4096)
SO400M = Facts(1152, 27, 16, 4304)
GIANT = Facts(1536, 40, 16, 6144)


def _sizes(name: str, facts: Facts, patch: int, sizes: tuple[int, ...]) -> dict[str, Facts]:
    return {f"{name}-{patch}-{size}": replace(facts, patch_size=patch, image_size=size) for size in sizes}


FIRST = {
    **_sizes("siglip-base", Facts(), 16, (224, 256, 384, 512)),
    **_sizes("siglip-large", LARGE, 16, (256, 384)),
    **_sizes("siglip-so400m", SO400M, 14, (224, 384)),
    **_sizes("siglip-so400m", SO400M, 16, (256,)),
}
SECOND = {
    **_sizes("siglip2-base", Facts(), 16, (224, 256, 384, 512)),
    **_sizes("siglip2-base", Facts(), 32, (256,)),
    **_sizes("siglip2-large", LARGE, 16, (256, 384, 512)),
    **_sizes("siglip2-so400m", SO400M, 14, (224, 384)),
    **_sizes("siglip2-so400m", SO400M, 16, (256, 384, 512)),
    **_sizes("siglip2-giant-opt", GIANT, 16, (256, 384)),
}


def _processor(facts: Facts, resample: int) -> dict[str, Any]:
    size = {"height": facts.image_size, "width": facts.image_size}
    return {"image_processor_type": "SiglipImageProcessor", "size": size, "resample": resample}


SECTIONS = {"siglip": "vision_config", "siglip_vision_model": ""}
FAMILY = Family("siglip", Facts, SECTIONS, FIRST, partial(_processor, resample=3), {})  # bicubic
FAMILY2 = Family("siglip2", Facts, SECTIONS, SECOND, partial(_processor, resample=2), {})  # bilinear


def build(config: TowerConfig, weights: Weights) -> Tower:
    """The tower of a folder or a preset: the MAP head's output, or the mean of all tokens.

    Raises:
        ValueError: the folder is no SigLIP of fixed resolution, does not fit the preset, or its tensors do not fit (all
            listed).
    """
    model = open_model(FAMILY2 if config.tower.startswith("siglip2") else FAMILY, config, weights)
    facts = model.facts
    check_pool(config, ("map", "mean") if facts.vision_use_head else ("mean",))
    check_trained_size(config, model.preprocess, facts.image_size, config.tower)
    params = load(facts, weights, grid_of(model.preprocess, facts.patch_size))
    pool = config.pool or ("map" if facts.vision_use_head else "mean")
    if pool == "mean":
        facts = replace(facts, vision_use_head=False)
        params = without(params, HEAD)
    return finished(
        *(config, model, params, partial(embed, facts)),
        family="siglip",
        facts=facts,
        features=pool,  # nothing follows the pooling, so pre-head is the same vector
        dim=facts.hidden_size,
    )


def load(facts: Facts, weights: Weights, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """The tower's tensors, positions fitted to `grid`."""
    params = load_tensors(weights, tensor_shapes(facts), _full_name, _is_other)
    params[POSITIONS] = resample_positions(params[POSITIONS], grid, antialias=False)
    return params


def _full_name(name: str) -> str:
    """A tower saved on its own by a newer version has no prefix."""
    return f"vision_model.{name}" if name.startswith(TOP_LEVEL) else name


def _is_other(name: str) -> bool:
    return name.startswith(TEXT_SIDE) or name.endswith("position_ids")


def tensor_shapes(facts: Facts) -> Shapes:
    """Name and shape of every tensor of the image tower."""
    width, hidden, patch = facts.hidden_size, facts.intermediate_size, facts.patch_size
    shapes: Shapes = {POSITIONS: ((facts.image_size // patch) ** 2, width)}
    shapes["vision_model.embeddings.patch_embedding.weight"] = (width, 3, patch, patch)
    shapes["vision_model.embeddings.patch_embedding.bias"] = (width,)
    encoder_shapes(shapes, facts.num_hidden_layers, width, hidden)
    norm(shapes, "vision_model.post_layernorm", width)
    if facts.vision_use_head:
        head_shapes(shapes, width, hidden)
    return shapes


def head_shapes(shapes: Shapes, width: int, hidden: int) -> None:
    """Adds the MAP head."""
    shapes[f"{HEAD}.probe"] = (1, 1, width)
    shapes[f"{HEAD}.attention.in_proj_weight"] = (3 * width, width)
    shapes[f"{HEAD}.attention.in_proj_bias"] = (3 * width,)
    dense(shapes, f"{HEAD}.attention.out_proj", width, width)
    norm(shapes, f"{HEAD}.layernorm", width)
    dense(shapes, f"{HEAD}.mlp.fc1", hidden, width)
    dense(shapes, f"{HEAD}.mlp.fc2", width, hidden)


def embed(facts: Facts, params: Params, images: jax.Array) -> jax.Array:
    """Normalised images float32 [B, H, W, 3] -> float32 [B, d]."""
    x = patches(params, "vision_model.embeddings.patch_embedding", images, facts.patch_size)
    x = encode(params, x + params[POSITIONS], facts)
    x = layer_norm(params, "vision_model.post_layernorm", x, facts.layer_norm_eps)
    if not facts.vision_use_head:
        return jnp.mean(x, axis=1)
    act = ACTIVATIONS[facts.hidden_act]
    return map_head(params, HEAD, x, facts.num_attention_heads, facts.layer_norm_eps, act)
