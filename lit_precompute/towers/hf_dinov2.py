"""DINOv2 image towers, with and without registers, as Hugging Face writes them."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
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
    pooled,
    prepend,
    resample_positions,
)
from lit_precompute.towers.hf_model import Family, check_pool, finished, grid_of, open_model
from lit_precompute.towers.hf_tensors import Shapes, dense, load_tensors, norm, strip_prefix
from lit_precompute.towers.last_block import wanted_tokens
from lit_precompute.towers.tower import Tower, Weights

NAMES = BlockNames(
    norm1="norm1",
    query="attention.attention.query",
    key="attention.attention.key",
    value="attention.attention.value",
    out="attention.output.dense",
    norm2="norm2",
)
POSITIONS = "embeddings.position_embeddings"
PATCHES = "embeddings.patch_embeddings.projection"
POOLS = ("cls", "mean", "cls+mean")


@dataclass(frozen=True)
class Facts:
    """A DINOv2 tower. `num_register_tokens` is 0 in the plain model."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: int = 4
    patch_size: int = 14
    image_size: int = 224
    num_register_tokens: int = 0
    use_swiglu_ffn: bool = False
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6

    @property
    def hidden(self) -> int:
        """Width inside the MLP; of each half where it is gated, as the original code rounds it."""
        width = self.hidden_size * self.mlp_ratio
        return (width * 2 // 3 + 7) // 8 * 8 if self.use_swiglu_ffn else width


SIZES = {
    "small": Facts(384, 12, 6, image_size=518),
    "base": Facts(image_size=518),
    "large": Facts(1024, 24, 16, image_size=518),
    "giant": Facts(1536, 40, 24, image_size=518, use_swiglu_ffn=True),
}

FAMILY = Family(
    name="dinov2",
    facts=Facts,
    sections={"dinov2": "", "dinov2_with_registers": ""},
    presets={
        **{f"dinov2-{name}": facts for name, facts in SIZES.items()},
        **{
            f"dinov2-{name}-registers": replace(facts, num_register_tokens=4) for name, facts in SIZES.items()
        },
    },
    processor=lambda facts: {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 256},
        "crop_size": 224,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    defaults={"dinov2_with_registers": {"patch_size": 16, "num_register_tokens": 4}},
)


def build(config: TowerConfig, weights: Weights) -> Tower:
    """The tower of a folder or a preset; its pooled output is the class token.

    The trained size (518 pixels) is not that of the usual preprocessing (224), so positions are resampled as a rule.

    Raises:
        ValueError: the folder is no DINOv2, does not fit the preset, or its tensors do not fit (all listed).
    """
    check_pool(config, POOLS)
    model = open_model(FAMILY, config, weights)
    facts, pool = model.facts, config.pool or "cls"
    params = load(facts, weights, grid_of(model.preprocess, facts.patch_size))
    return finished(
        *(config, model, params, partial(embed, facts, pool)),
        family=FAMILY.name,
        facts=facts,
        features=pool,  # there is no head, so pre-head is the same vector
        dim=facts.hidden_size * len(pool.split("+")),
    )


def load(facts: Facts, weights: Weights, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """The tower's tensors, positions fitted to `grid`. The mask token served training only."""
    params = load_tensors(
        weights, tensor_shapes(facts), strip_prefix("dinov2."), lambda name: name.endswith("mask_token")
    )
    table = params[POSITIONS][0]
    fitted = resample_positions(table[1:], grid, antialias=facts.num_register_tokens > 0)
    params[POSITIONS] = np.concatenate([table[:1], fitted])[None]
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
    if facts.num_register_tokens:
        shapes["embeddings.register_tokens"] = (1, facts.num_register_tokens, width)
    for number in range(facts.num_hidden_layers):
        at = f"encoder.layer.{number}"
        for name in (NAMES.query, NAMES.key, NAMES.value):
            dense(shapes, f"{at}.{name}", width, width, facts.qkv_bias)
        dense(shapes, f"{at}.{NAMES.out}", width, width)
        for name in (NAMES.norm1, NAMES.norm2):
            norm(shapes, f"{at}.{name}", width)
        shapes[f"{at}.layer_scale1.lambda1"] = shapes[f"{at}.layer_scale2.lambda1"] = (width,)
        if facts.use_swiglu_ffn:
            dense(shapes, f"{at}.mlp.weights_in", 2 * facts.hidden, width)
            dense(shapes, f"{at}.mlp.weights_out", width, facts.hidden)
        else:
            dense(shapes, f"{at}.mlp.fc1", facts.hidden, width)
            dense(shapes, f"{at}.mlp.fc2", width, facts.hidden)
    norm(shapes, "layernorm", width)
    return shapes


def embed(facts: Facts, pool: str, params: Params, images: jax.Array) -> jax.Array:
    """Normalised images float32 [B, H, W, 3] -> float32 [B, D]."""
    x = prepend(params["embeddings.cls_token"], patches(params, PATCHES, images, facts.patch_size))
    x = x + params[POSITIONS]
    if facts.num_register_tokens:  # between the class token and the patches, without positions
        x = jnp.concatenate([x[:, :1], prepend(params["embeddings.register_tokens"], x[:, 1:])], axis=1)
    for number in range(facts.num_hidden_layers):
        at = f"encoder.layer.{number}"
        feed_forward = partial(_feed_forward, facts, params, f"{at}.mlp")
        x = block(
            *(params, at, x, NAMES, facts.num_attention_heads, facts.layer_norm_eps, feed_forward),
            wanted=wanted_tokens(number, facts.num_hidden_layers, pool),
        )
    x = layer_norm(params, "layernorm", x, facts.layer_norm_eps)
    return pooled(x, pool, special=1 + facts.num_register_tokens)


def _feed_forward(facts: Facts, params: Params, at: str, x: jax.Array) -> jax.Array:
    if not facts.use_swiglu_ffn:
        return mlp(params, at, x, ACTIVATIONS[facts.hidden_act])
    gate, value = jnp.split(linear(params, f"{at}.weights_in", x), 2, axis=-1)
    return linear(params, f"{at}.weights_out", jax.nn.silu(gate) * value)
