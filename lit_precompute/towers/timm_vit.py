"""ViT image towers as timm writes them to the hub: `architecture`, `model_args` and `pretrained_cfg` in config.json."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lit_precompute.config import TowerConfig
from lit_precompute.preprocess import RESAMPLING, Preprocess
from lit_precompute.towers.hf_layers import (
    ACTIVATIONS,
    Params,
    attention,
    layer_norm,
    linear,
    mlp,
    patches,
    prepend,
    resample_positions,
    rounded_linear,
)
from lit_precompute.towers.hf_model import Opened, check_pool, check_trained_size, finished, grid_of
from lit_precompute.towers.hf_tensors import Shapes, dense, load_tensors, norm, without
from lit_precompute.towers.last_block import wanted_tokens
from lit_precompute.towers.timm_names import architecture_args
from lit_precompute.towers.tower import RandomWeights, Tower, Weights
from schemas.model_folder import ModelFolder

POOLS = {"token": "cls", "avg": "mean", "map": "map"}  # timm's name: ours
ACTS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "relu": "relu"}

# name: its architecture under timm
PRESETS = {
    "timm-vit-ti-16": "vit_tiny_patch16_224",
    "timm-vit-s-16": "vit_small_patch16_224",
    "timm-vit-s-32": "vit_small_patch32_224",
    "timm-vit-b-8": "vit_base_patch8_224",
    "timm-vit-b-16": "vit_base_patch16_224",
    "timm-vit-b-32": "vit_base_patch32_224",
    "timm-vit-l-16": "vit_large_patch16_224",
    "timm-clip-vit-b-16-laion2b": "vit_base_patch16_clip_224",
    "timm-clip-vit-b-32-laion2b": "vit_base_patch32_clip_224",
    "timm-clip-vit-l-14-laion2b": "vit_large_patch14_clip_224",
    "timm-clip-vit-h-14-laion2b": "vit_huge_patch14_clip_224",
}
SIZES = ("width", "depth", "heads", "hidden", "patch_size", "image_size")

# Arguments that are followed, with timm's defaults; another one is refused unless it is null or false.
ARGUMENTS = {
    **{"img_size": 224, "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0},
    **{"class_token": True, "no_embed_class": False, "reg_tokens": 0, "init_values": None, "in_chans": 3},
    **{"qkv_bias": True, "act_layer": "gelu", "fc_norm": None, "pre_norm": False, "norm_eps": 1e-6},
}
INERT = {"num_classes", "global_pool", "dynamic_img_size", "drop_path_rate", "drop_rate", "weight_init"}


@dataclass(frozen=True)
class Facts:
    """A timm ViT.

    Attributes:
        pre_norm: whether there is a normalisation before the first block, and then no bias of the patches.
        pool_norm: whether the mean is normalised after it is taken, rather than the tokens before.
        embed_class: whether class token and registers have positions.
        head_size: 0 where there is no classifier.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch_size: int
    image_size: int
    pool: str
    class_token: bool
    registers: int
    embed_class: bool
    layer_scale: bool
    qkv_bias: bool
    act: str
    pre_norm: bool
    pool_norm: bool
    eps: float
    head_size: int

    @property
    def special(self) -> int:
        """Tokens before those of the patches."""
        return int(self.class_token) + self.registers

    @property
    def positions(self) -> int:
        """Rows of the table of positions that belong to no patch."""
        return self.special if self.embed_class else 0


def build(config: TowerConfig, weights: Weights) -> Tower:
    """The tower of a folder: logits of a classifier, or with `--features pre-head` what enters it.

    Raises:
        ValueError: the folder is no timm ViT that can be followed, or its tensors do not fit (all listed).
    """
    facts, source, settings = _read(config, weights)
    check_pool(config, (facts.pool,))
    preprocess = read_preprocess(source, settings, config)
    check_trained_size(config, preprocess, facts.image_size, source)
    params = load(facts, weights, grid_of(preprocess, facts.patch_size))
    if config.features == "pre-head":
        params = without(params, "head")
        facts = replace(facts, head_size=0)
    return finished(
        *(config, Opened(facts, preprocess, weights), params, partial(embed, facts)),
        family="timm-vit",
        facts=facts,
        features="head" if facts.head_size else facts.pool,
        dim=facts.head_size or facts.width,
    )


def _read(config: TowerConfig, weights: Weights) -> tuple[Facts, str, Mapping[str, Any]]:
    """What decides the network, where it stands, and the settings of the preprocessing."""
    wanted = None
    if config.tower in PRESETS:
        wanted = read_facts(config.tower, {"architecture": PRESETS[config.tower]})
    if isinstance(weights, RandomWeights):
        if wanted is None:
            raise ValueError(
                f"--tower: random weights need a size, found {config.tower!r}. Known: {', '.join(PRESETS)}."
            )
        return weights.of_size(wanted), config.tower, {"crop_pct": 0.9}
    if not isinstance(weights, ModelFolder) or "pretrained_cfg" not in weights.config:
        raise ValueError(
            f"--checkpoint: {config.tower} must be a folder, or hf://timm/model, whose config.json is timm's (with "
            "pretrained_cfg), found otherwise."
        )
    facts = read_facts(weights.source, weights.config)
    differing = [
        f"{name} {getattr(wanted, name)} (found {getattr(facts, name)})"
        for name in (*SIZES, "pre_norm")
        if wanted and getattr(facts, name) != getattr(wanted, name)
    ]
    if differing:
        raise ValueError(
            f"--tower {config.tower} must have {', '.join(differing)}. Use --tower timm-vit to take the folder as it "
            "is."
        )
    return facts, weights.source, weights.config["pretrained_cfg"]


def read_facts(source: str, config: Mapping[str, Any]) -> Facts:
    """What decides the network."""
    given = config.get("model_args") or {}
    named = architecture_args(str(config.get("architecture")))
    if named is None and not {"embed_dim", "depth", "num_heads"} <= set(given):
        raise ValueError(
            f"{source}: config.json must say embed_dim, depth and num_heads in model_args, or have an architecture "
            f"such as vit_base_patch16_224, found {config.get('architecture')!r}. Save it with its arguments, or use "
            "the model's transformers version."
        )
    odd = [f"{n} {v!r}" for n, v in given.items() if n not in {*ARGUMENTS, *INERT} and v not in (None, False)]
    args = ARGUMENTS | (named or {}) | dict(given)
    pool = args.get("global_pool") or config.get("global_pool", "token")
    sizes = ("img_size", "patch_size", "embed_dim", "depth", "num_heads")
    odd += [f"{n} {args[n]!r}" for n in sizes if not isinstance(args[n], int) or args[n] < 1]
    odd += [f"in_chans {args['in_chans']!r}"] if args["in_chans"] != 3 else []
    odd += [f"act_layer {args['act_layer']!r}"] if args["act_layer"] not in ACTS else []
    odd += [f"global_pool {pool!r}"] if pool not in POOLS else []
    odd += [f"fc_norm {args['fc_norm']!r}"] if args["fc_norm"] and pool != "avg" else []
    if odd:
        raise ValueError(
            f"{source}: config.json must describe a plain ViT, found {'; '.join(odd)}, which cannot be followed."
        )
    return Facts(
        width=args["embed_dim"],
        depth=args["depth"],
        heads=args["num_heads"],
        hidden=int(args["embed_dim"] * args["mlp_ratio"]),
        patch_size=args["patch_size"],
        image_size=args["img_size"],
        pool=POOLS[pool],
        class_token=args["class_token"],
        registers=args["reg_tokens"],
        embed_class=not args["no_embed_class"],
        layer_scale=args["init_values"] is not None,
        qkv_bias=args["qkv_bias"],
        act=ACTS[args["act_layer"]],
        pre_norm=bool(args["pre_norm"]),
        pool_norm=pool == "avg" if args["fc_norm"] is None else args["fc_norm"],
        eps=args["norm_eps"],
        head_size=config.get("num_classes", 0),
    )


def read_preprocess(source: str, settings: Mapping[str, Any], config: TowerConfig) -> Preprocess:
    """timm's evaluation transform: the short side to size / crop_pct, rounded down, then the centre; or both sides."""
    _, height, width = settings.get("input_size", (3, 224, 224))
    mode, name = settings.get("crop_mode", "center"), settings.get("interpolation", "bicubic")
    part = settings.get("crop_pct", 0.875)
    squash = mode == "squash" and part == 1
    if height != width or not (mode == "center" or squash) or name not in RESAMPLING:
        raise ValueError(
            f"{source}: pretrained_cfg must have a square input_size, crop_mode center (or squash with crop_pct 1) and "
            f"an interpolation of {', '.join(RESAMPLING)}, found {height} x {width}, {mode!r} with crop_pct {part}, "
            f"{name!r}."
        )
    mean, std = (
        tuple(255.0 * settings.get(key, [0.5] * 3)[channel] for channel in range(3))
        for key in ("mean", "std")
    )
    short = int(height / part)
    preprocess = Preprocess(
        "pillow",
        height,
        "crop",
        name,
        height / short,
        mean=mean,
        std=std,
        whole=True,
    )
    return replace(
        preprocess,
        resize=config.resize or ("full" if squash else "crop"),
        image_size=config.image_size or preprocess.image_size,
    )


def load(facts: Facts, weights: Weights, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """The tower's tensors, positions fitted to `grid`."""
    params = load_tensors(weights, tensor_shapes(facts))
    table, first = params["pos_embed"][0], facts.positions
    fitted = resample_positions(table[first:], grid, antialias=True)
    params["pos_embed"] = np.concatenate([table[:first], fitted])[None]
    return params


def tensor_shapes(facts: Facts) -> Shapes:
    """Name and shape of every tensor."""
    width, patch = facts.width, facts.patch_size
    count = (facts.image_size // patch) ** 2
    shapes: Shapes = {
        "pos_embed": (1, count + facts.positions, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
    }
    if facts.pre_norm:
        norm(shapes, "norm_pre", width)
    else:
        shapes["patch_embed.proj.bias"] = (width,)
    if facts.class_token:
        shapes["cls_token"] = (1, 1, width)
    if facts.registers:
        shapes["reg_token"] = (1, facts.registers, width)
    for number in range(facts.depth):
        _block_shapes(shapes, f"blocks.{number}", facts)
    norm(shapes, "fc_norm" if facts.pool_norm else "norm", width)
    if facts.pool == "map":
        _map_shapes(shapes, facts)
    if facts.head_size:
        dense(shapes, "head", facts.head_size, width)
    return shapes


def _block_shapes(shapes: Shapes, at: str, facts: Facts) -> None:
    width = facts.width
    norm(shapes, f"{at}.norm1", width)
    dense(shapes, f"{at}.attn.qkv", 3 * width, width, facts.qkv_bias)
    dense(shapes, f"{at}.attn.proj", width, width)
    norm(shapes, f"{at}.norm2", width)
    dense(shapes, f"{at}.mlp.fc1", facts.hidden, width)
    dense(shapes, f"{at}.mlp.fc2", width, facts.hidden)
    if facts.layer_scale:
        shapes[f"{at}.ls1.gamma"] = shapes[f"{at}.ls2.gamma"] = (width,)


def _map_shapes(shapes: Shapes, facts: Facts) -> None:
    width = facts.width
    shapes["attn_pool.latent"] = (1, 1, width)
    dense(shapes, "attn_pool.q", width, width)
    dense(shapes, "attn_pool.kv", 2 * width, width)
    dense(shapes, "attn_pool.proj", width, width)
    norm(shapes, "attn_pool.norm", width)
    dense(shapes, "attn_pool.mlp.fc1", facts.hidden, width)
    dense(shapes, "attn_pool.mlp.fc2", width, facts.hidden)


def embed(facts: Facts, params: Params, images: jax.Array) -> jax.Array:
    """Normalised images float32 [B, H, W, 3] -> float32 [B, D]."""
    x = patches(params, "patch_embed.proj", images, facts.patch_size)
    if not facts.embed_class:
        x = x + params["pos_embed"]
    if facts.registers:
        x = prepend(params["reg_token"], x)
    if facts.class_token:
        x = prepend(params["cls_token"], x)
    if facts.embed_class:
        x = x + params["pos_embed"]
    if facts.pre_norm:
        x = layer_norm(params, "norm_pre", x, facts.eps)
    for number in range(facts.depth):
        x = _block(facts, params, f"blocks.{number}", x, wanted_tokens(number, facts.depth, facts.pool))
    x = _pooled(facts, params, x)
    return linear(params, "head", x) if facts.head_size else x


def _block(facts: Facts, params: Params, at: str, x: jax.Array, wanted: int | None) -> jax.Array:
    """[B, L, d] -> [B, Q, d], the Q first tokens `wanted`."""
    query, key, value = jnp.split(
        rounded_linear(params, f"{at}.attn.qkv", layer_norm(params, f"{at}.norm1", x, facts.eps)), 3, axis=-1
    )
    y = linear(params, f"{at}.attn.proj", attention(query[:, :wanted], key, value, facts.heads))
    x = x[:, :wanted] + (y * params[f"{at}.ls1.gamma"] if facts.layer_scale else y)
    y = mlp(params, f"{at}.mlp", layer_norm(params, f"{at}.norm2", x, facts.eps), ACTIVATIONS[facts.act])
    return x + (y * params[f"{at}.ls2.gamma"] if facts.layer_scale else y)


def _pooled(facts: Facts, params: Params, x: jax.Array) -> jax.Array:
    """A vector an image, the classifier's input."""
    if facts.pool_norm:
        return layer_norm(params, "fc_norm", jnp.mean(x[:, facts.special :], axis=1), facts.eps)
    x = layer_norm(params, "norm", x, facts.eps)
    if facts.pool == "cls":
        return x[:, 0]
    if facts.pool == "mean":
        return jnp.mean(x[:, facts.special :], axis=1)
    latent = jnp.broadcast_to(params["attn_pool.latent"], (len(x), 1, facts.width))
    key, value = jnp.split(linear(params, "attn_pool.kv", x), 2, axis=-1)
    y = attention(linear(params, "attn_pool.q", latent), key, value, facts.heads)
    y = linear(params, "attn_pool.proj", y)
    y = y + mlp(
        params, "attn_pool.mlp", layer_norm(params, "attn_pool.norm", y, facts.eps), ACTIVATIONS[facts.act]
    )
    return y[:, 0]
