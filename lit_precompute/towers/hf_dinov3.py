"""DINOv3 ViT image towers as Hugging Face writes them: no table of positions, queries and keys are rotated.

Its processor scales to 0..1 before it resizes and never rounds; pixels here are rounded to whole levels after the
resize, as everywhere in this project, which moves what the network sees by at most one level in 255.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lit_precompute.config import TowerConfig
from lit_precompute.towers import products
from lit_precompute.towers.hf_layers import (
    ACTIVATIONS,
    Params,
    layer_norm,
    linear,
    patches,
    pooled,
    prepend,
    rounded_linear,
    scaled,
)
from lit_precompute.towers.hf_model import Family, check_pool, finished, grid_of, open_model
from lit_precompute.towers.hf_tensors import Shapes, dense, load_tensors, norm
from lit_precompute.towers.last_block import wanted_tokens
from lit_precompute.towers.tower import Tower, Weights

PATCHES = "embeddings.patch_embeddings"
POOLS = ("cls", "mean", "cls+mean")


@dataclass(frozen=True)
class Facts:
    """A DINOv3 ViT."""

    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    intermediate_size: int = 1536
    patch_size: int = 16
    num_register_tokens: int = 0
    use_gated_mlp: bool = False
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    rope_theta: float = 100.0


def _size(
    width: int, layers: int, heads: int, hidden: int, gated: bool = False, attention_bias: bool = True
) -> Facts:
    return Facts(
        *(width, layers, heads, hidden),
        num_register_tokens=4,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
        query_bias=attention_bias,
        value_bias=attention_bias,
    )


FAMILY = Family(
    name="dinov3",
    facts=Facts,
    sections={"dinov3_vit": ""},
    presets={
        "dinov3-small": _size(384, 12, 6, 1536),
        "dinov3-small-plus": _size(384, 12, 6, 1536, gated=True),
        "dinov3-base": _size(768, 12, 12, 3072),
        "dinov3-large": _size(1024, 24, 16, 4096),
        "dinov3-huge-plus": _size(1280, 32, 20, 5120, gated=True),
        "dinov3-7b": _size(4096, 40, 32, 8192, gated=True, attention_bias=False),
    },
    processor=lambda facts: {"image_processor_type": "DINOv3ViTImageProcessor"},
    defaults={},
)


def build(config: TowerConfig, weights: Weights) -> Tower:
    """The tower of a folder or a preset; its pooled output is the class token.

    Raises:
        ValueError: the folder is no DINOv3 ViT, does not fit the preset, or its tensors do not fit (all listed).
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
    """The tower's tensors, the same for every grid. The mask token served training only."""
    return load_tensors(weights, tensor_shapes(facts), ignored=lambda name: name.endswith("mask_token"))


def tensor_shapes(facts: Facts) -> Shapes:
    """Name and shape of every tensor."""
    width, hidden = facts.hidden_size, facts.intermediate_size
    shapes: Shapes = {
        "embeddings.cls_token": (1, 1, width),
        f"{PATCHES}.weight": (width, 3, facts.patch_size, facts.patch_size),
        f"{PATCHES}.bias": (width,),
    }
    if facts.num_register_tokens:
        shapes["embeddings.register_tokens"] = (1, facts.num_register_tokens, width)
    biases = {
        "q": facts.query_bias,
        "k": facts.key_bias,
        "v": facts.value_bias,
        "o": facts.proj_bias,
    }
    for number in range(facts.num_hidden_layers):
        at = f"layer.{number}"
        for name, bias in biases.items():
            dense(shapes, f"{at}.attention.{name}_proj", width, width, bias)
        for name in ("norm1", "norm2"):
            norm(shapes, f"{at}.{name}", width)
        shapes[f"{at}.layer_scale1.lambda1"] = shapes[f"{at}.layer_scale2.lambda1"] = (width,)
        for name in ("gate", "up") if facts.use_gated_mlp else ("up",):
            dense(shapes, f"{at}.mlp.{name}_proj", hidden, width, facts.mlp_bias)
        dense(shapes, f"{at}.mlp.down_proj", width, hidden, facts.mlp_bias)
    norm(shapes, "norm", width)
    return shapes


def embed(facts: Facts, pool: str, params: Params, images: jax.Array) -> jax.Array:
    """Normalised images float32 [B, H, W, 3] -> float32 [B, D]."""
    x = patches(params, PATCHES, images, facts.patch_size)
    rows, columns = (side // facts.patch_size for side in images.shape[1:3])
    turns = rotations(rows, columns, facts.hidden_size // facts.num_attention_heads, facts.rope_theta)
    if facts.num_register_tokens:
        x = prepend(params["embeddings.register_tokens"], x)
    x = prepend(params["embeddings.cls_token"], x)
    for number in range(facts.num_hidden_layers):
        wanted = wanted_tokens(number, facts.num_hidden_layers, pool)
        x = _block(facts, params, f"layer.{number}", x, turns, wanted)
    x = layer_norm(params, "norm", x, facts.layer_norm_eps)
    return pooled(x, pool, special=1 + facts.num_register_tokens)


def rotations(rows: int, columns: int, width: int, theta: float) -> np.ndarray:
    """Angles float32 [rows * columns, width] of the patches' centres: y in quarters 1 and 3, x in 2 and 4.

    Centres run from -1 to 1 over the image, whatever its size.
    """
    frequencies = theta ** (-4 * np.arange(width // 4) / width)
    y, x = np.meshgrid(*(2 * (np.arange(n) + 0.5) / n - 1 for n in (rows, columns)), indexing="ij")
    angles = [2 * np.pi * axis.reshape(-1, 1) * frequencies for axis in (y, x)]
    return np.concatenate(angles * 2, axis=1).astype(np.float32)


def _rotated(x: jax.Array, turns: np.ndarray) -> jax.Array:
    """Queries or keys [B, L, heads, d]; class token and registers, the first ones, stay."""
    special, patch = jnp.split(x, [x.shape[1] - len(turns)], axis=1)
    first, second = jnp.split(patch, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    patch = patch * np.cos(turns)[:, None] + turned * np.sin(turns)[:, None]
    return jnp.concatenate([special, patch], axis=1)


def _block(
    facts: Facts, params: Params, at: str, x: jax.Array, turns: np.ndarray, wanted: int | None
) -> jax.Array:
    """[B, L, d] -> [B, L, d], or [B, 1, d] where the class token alone is `wanted`."""

    def heads(name: str, tokens: jax.Array) -> jax.Array:
        found = rounded_linear(params, f"{at}.attention.{name}_proj", tokens)
        return found.reshape(*tokens.shape[:2], facts.num_attention_heads, -1)

    y = layer_norm(params, f"{at}.norm1", x, facts.layer_norm_eps)
    query, key, value = heads("q", y[:, :wanted]), heads("k", y), heads("v", y)
    key = _rotated(key, turns).astype(value.dtype)
    query = query if wanted else _rotated(query, turns).astype(value.dtype)  # the class token is not turned
    x = x[:, :wanted]
    y = products.attention(query, key, value).reshape(x.shape)
    x = x + scaled(params, f"{at}.layer_scale1", linear(params, f"{at}.attention.o_proj", y))
    y = layer_norm(params, f"{at}.norm2", x, facts.layer_norm_eps)
    act, up = ACTIVATIONS[facts.hidden_act], linear(params, f"{at}.mlp.up_proj", y)
    hidden = act(linear(params, f"{at}.mlp.gate_proj", y)) * up if facts.use_gated_mlp else act(up)
    return x + scaled(params, f"{at}.layer_scale2", linear(params, f"{at}.mlp.down_proj", hidden))
