"""What timm's names of ViT architectures say, for the published files whose config.json gives no `model_args`."""

import re
from typing import Any

# width, blocks, heads, MLP ratio
SIZES: dict[str, tuple[int, int, int, float]] = {
    "tiny": (192, 12, 3, 4.0),
    "small": (384, 12, 6, 4.0),
    "base": (768, 12, 12, 4.0),
    "base_plus": (896, 12, 14, 4.0),
    "large": (1024, 24, 16, 4.0),
    "so400m": (1152, 27, 16, 3.7362),
    "huge": (1280, 32, 16, 4.0),
    "giant": (1408, 40, 16, 48 / 11),
    "gigantic": (1664, 48, 16, 64 / 13),
    "giantopt": (1536, 40, 16, 4.0),
}
CLIP = {"pre_norm": True, "norm_eps": 1e-5}
SIGLIP = {"class_token": False, "global_pool": "map"}
DINOV2 = {"init_values": 1e-5, "img_size": 518}
FAMILIES: dict[str, dict[str, Any]] = {
    "": {},
    "clip_": CLIP,
    "clip_quickgelu_": CLIP | {"act_layer": "quick_gelu"},
    "siglip_": SIGLIP,
    "siglip_gap_": SIGLIP | {"global_pool": "avg", "fc_norm": False},
    "dinov2": DINOV2,
    "reg4_dinov2": DINOV2 | {"reg_tokens": 4, "no_embed_class": True},
}
# SigLIP 2 brought these with the tanh form of GELU; timm has the exact one for what the first SigLIP had.
TANH = {("base", "32", "256"), ("large", "16", "512")}
TANH |= {("so400m", "16", size) for size in ("256", "384", "512")}
TANH |= {("giantopt", "16", size) for size in ("256", "384")}
NAME = re.compile(
    r"vit_(?P<size>[a-z0-9]+)_patch(?P<patch>\d+)(?P<plus>_plus)?_"
    r"(?:(?P<fixed>dinov2|reg4_dinov2)|(?P<family>clip_quickgelu_|clip_|siglip_gap_|siglip_|)(?P<image>\d+))"
)


def architecture_args(name: str) -> dict[str, Any] | None:
    """The arguments an architecture was built with, and `norm_eps` where it normalises with another epsilon.

    Args:
        name: such as `vit_base_patch16_clip_224`; what follows a dot is the name of the weights and says nothing here.

    Returns:
        Arguments of timm's `VisionTransformer`, or None where the name is not known.

    Source: `timm.models.vision_transformer` of timm 1.0.
    """
    match = NAME.fullmatch(name.split(".")[0])
    if match is None or (sizes := SIZES.get(match["size"] + (match["plus"] or ""))) is None:
        return None
    if match["fixed"] and match["size"] == "giant":  # another width than CLIP's giant, and a gated MLP
        return None
    args: dict[str, Any] = dict(zip(("embed_dim", "depth", "num_heads", "mlp_ratio"), sizes, strict=True))
    args |= {"patch_size": int(match["patch"])} | FAMILIES[match["fixed"] or match["family"]]
    if match["image"]:
        args["img_size"] = int(match["image"])
    if (match["family"] or "").startswith("siglip") and (
        match["size"],
        match["patch"],
        match["image"],
    ) in TANH:
        args["act_layer"] = "gelu_tanh"
    return args
