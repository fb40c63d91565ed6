"""Where the weights of the named towers are published, and how their authors feed and read them.

A name in `PUBLISHED` needs no `--checkpoint`; what is said on the command line goes before what stands here.
"""

from dataclasses import dataclass, replace
from typing import Literal

from lit_precompute.config import TowerConfig


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Attributes:
        checkpoint: gs:// URL or hf:// address; of a commit where `REVISIONS` knows one, else of the newest revision.
        resize: how its authors resize for it, where no file beside the weights says so.
        features: what is stored of it; `pre-head` for classifiers, whose head speaks of their own classes.
    """

    checkpoint: str
    resize: Literal["crop", "full"] | None = None
    features: Literal["default", "pre-head"] = "default"


LIT, VISION, AUGREG = "gs://vit_models/lit", "gs://big_vision", "gs://vit_models/augreg"
AUGREG_RECIPES = {
    "ti-16": "aug_none-wd_0.03",
    "s-32": "aug_none-wd_0.1",
    "s-16": "aug_light1-wd_0.03",
    "b-32": "aug_light1-wd_0.1",
    "b-16": "aug_medium1-wd_0.1",
    "b-8": "aug_medium2-wd_0.1",
    "l-16": "aug_strong1-wd_0.1",
}
SIGLIP_FILES = {
    "base-16-224": "webli_en_b16_224_63724782",
    "base-16-256": "webli_en_b16_256_60500360",
    "base-16-384": "webli_en_b16_384_68578854",
    "base-16-512": "webli_en_b16_512_68580893",
    "large-16-256": "webli_en_l16_256_60552751",
    "large-16-384": "webli_en_l16_384_63634585",
    "so400m-14-224": "webli_en_so400m_224_57633886",
    "so400m-14-384": "webli_en_so400m_384_58765454",
    "i18n-base-16-256": "webli_i18n_b16_256_66117334",
    "i18n-so400m-16-256": "webli_i18n_so400m_16_256_78061115",
}
# (name here and on the hub, name in .npz files): the image sizes of each patch
SIGLIP2_SIZES: dict[tuple[str, str], dict[int, tuple[int, ...]]] = {
    ("base", "b"): {16: (224, 256, 384, 512), 32: (256,)},
    ("large", "l"): {16: (256, 384, 512)},
    ("so400m", "so400m"): {14: (224, 384), 16: (256, 384, 512)},
    ("giant-opt", "g-opt"): {16: (256, 384)},
}
SIGLIP_HUB = ("base-16-224", "base-16-256", "base-16-384", "base-16-512", "large-16-256", "large-16-384")
CLIPPO = ("yfcc100m", "yfcc100m_i21k_init", "100c4", *(f"yfcc100m_i21k_init_{n}c4" for n in (25, 50, 75)))
HUB = {
    "clip-vit-b-32": "openai/clip-vit-base-patch32",
    "clip-vit-b-16": "openai/clip-vit-base-patch16",
    "clip-vit-l-14": "openai/clip-vit-large-patch14",
    "clip-vit-l-14-336": "openai/clip-vit-large-patch14-336",
    "clip-vit-h-14": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    **{f"siglip-{name}": f"google/siglip-{name.replace('-16-', '-patch16-')}" for name in SIGLIP_HUB},
    "siglip-so400m-14-224": "google/siglip-so400m-patch14-224",
    "siglip-so400m-14-384": "google/siglip-so400m-patch14-384",
    "siglip-so400m-16-256": "google/siglip-so400m-patch16-256-i18n",
    "siglip2-base-16-naflex": "google/siglip2-base-patch16-naflex",
    "siglip2-so400m-16-naflex": "google/siglip2-so400m-patch16-naflex",
    **{f"dinov2-{size}": f"facebook/dinov2-{size}" for size in ("small", "base", "large", "giant")},
    **{
        f"dinov2-{size}-registers": f"facebook/dinov2-with-registers-{size}"
        for size in ("small", "base", "large", "giant")
    },
    "dinov3-small": "facebook/dinov3-vits16-pretrain-lvd1689m",
    "dinov3-small-plus": "facebook/dinov3-vits16plus-pretrain-lvd1689m",
    "dinov3-base": "facebook/dinov3-vitb16-pretrain-lvd1689m",
    "dinov3-large": "facebook/dinov3-vitl16-pretrain-lvd1689m",
    "dinov3-huge-plus": "facebook/dinov3-vith16plus-pretrain-lvd1689m",
    "dinov3-7b": "facebook/dinov3-vit7b16-pretrain-lvd1689m",
    "hf-vit-b-16": "google/vit-base-patch16-224-in21k",
    "hf-vit-b-32": "google/vit-base-patch32-224-in21k",
    "hf-vit-l-16": "google/vit-large-patch16-224-in21k",
    "hf-vit-l-32": "google/vit-large-patch32-224-in21k",
    "hf-vit-h-14": "google/vit-huge-patch14-224-in21k",
}
# What these names mean stays what it was, whatever is uploaded there later.
REVISIONS = {
    "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "openai/clip-vit-base-patch16": "57c216476eefef5ab752ec549e440a49ae4ae5f3",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "google/siglip-base-patch16-224": "7fd15f0689c79d79e38b1c2e2e2370a7bf2761ed",
    "google/siglip-base-patch16-256": "b078df89e446d623010d890864d4207fe6399f61",
    "google/siglip-base-patch16-384": "41aec1c83b32e0a6fca20ad88ba058aa5b5ea394",
    "google/siglip-base-patch16-512": "753a949581523b60257d93e18391e8c27f72eb22",
    "google/siglip-large-patch16-256": "d0da9f876e7d66b4e250cd2450c3ba2ce735e447",
    "google/siglip-large-patch16-384": "ce005573a40965dfd21fd937fbdeeebf2439fc35",
    "google/siglip-so400m-patch14-224": "d04cf29fca7b6374f74d8bea1969314492266b5e",
    "google/siglip-so400m-patch14-384": "9fdffc58afc957d1a03a25b10dba0329ab15c2a3",
    "google/siglip-so400m-patch16-256-i18n": "365d321c0cfdea96bc28e3a29787a11a062681a1",
    "facebook/dinov2-small": "ed25f3a31f01632728cabb09d1542f84ab7b0056",
    "facebook/dinov2-base": "f9e44c814b77203eaa57a6bdbbd535f21ede1415",
    "facebook/dinov2-large": "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c",
    "facebook/dinov2-giant": "611a9d42f2335e0f921f1e313ad3c1b7178d206d",
}
TIMM = {
    "timm-vit-ti-16": "vit_tiny_patch16_224.augreg_in21k",
    "timm-vit-s-16": "vit_small_patch16_224.augreg_in21k",
    "timm-vit-s-32": "vit_small_patch32_224.augreg_in21k",
    "timm-vit-b-8": "vit_base_patch8_224.augreg_in21k",
    "timm-vit-b-16": "vit_base_patch16_224.augreg_in21k",
    "timm-vit-b-32": "vit_base_patch32_224.augreg_in21k",
    "timm-vit-l-16": "vit_large_patch16_224.augreg_in21k",
    "timm-clip-vit-b-16-laion2b": "vit_base_patch16_clip_224.laion2b",
    "timm-clip-vit-b-32-laion2b": "vit_base_patch32_clip_224.laion2b",
    "timm-clip-vit-l-14-laion2b": "vit_large_patch14_clip_224.laion2b",
    "timm-clip-vit-h-14-laion2b": "vit_huge_patch14_clip_224.laion2b",
}
CONVNEXT = {
    **{f"convnext-{size}": f"facebook/convnext-{size}-224" for size in ("tiny", "small", "base", "large")},
    "convnext-xlarge": "facebook/convnext-xlarge-224-22k",
    **{
        f"convnextv2-{size}": f"facebook/convnextv2-{size}-1k-224"
        for size in ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")
    },
}


def _hub(model: str) -> str:
    revision = REVISIONS.get(model)
    return f"hf://{model}@{revision}" if revision else f"hf://{model}"


def _augreg(size: str) -> Published:
    name = size.replace("-", "_").capitalize()
    file = f"{name}-i21k-300ep-lr_0.001-{AUGREG_RECIPES[size]}-do_0.0-sd_0.0.npz"
    return Published(f"{AUGREG}/{file}", features="pre-head")


def _siglip2() -> dict[str, Published]:
    """Both forms of each SigLIP 2 of fixed resolution."""
    found = {}
    for (name, short), patches in SIGLIP2_SIZES.items():
        for patch, sizes in patches.items():
            for size in sizes:
                file = f"{VISION}/siglip2/siglip2_{short}{patch}_{size}.npz"
                found[f"siglip2-npz-{name}-{patch}-{size}"] = Published(file, "full")
                found[f"siglip2-{name}-{patch}-{size}"] = Published(
                    f"hf://google/siglip2-{name}-patch{patch}-{size}"
                )
    return found


PUBLISHED: dict[str, Published] = {
    "lit-b16b": Published(f"{LIT}/LiT-B16B.npz", "full"),
    "lit-b16b_2": Published(f"{LIT}/LiT-B16B_2.npz", "full"),
    "lit-l16l": Published(f"{LIT}/LiT-L16L.npz", "full"),
    "lit-l16s": Published(f"{LIT}/LiT-L16S.npz", "full"),
    "lit-l16ti": Published(f"{LIT}/LiT-L16Ti.npz", "full"),
    "lit-coco-b16b": Published(f"{LIT}/big_vision/coco_B16B/checkpoint.npz", "full"),
    **{f"augreg-{size}": _augreg(size) for size in AUGREG_RECIPES},
    **{
        f"siglip-npz-{n}": Published(f"{VISION}/siglip/{file}.npz", "full")
        for n, file in SIGLIP_FILES.items()
    },
    **_siglip2(),
    **{
        f"clippo-b16-{name.replace('_', '-')}": Published(f"{VISION}/clippo/clippo_b16_{name}.npz", "full")
        for name in CLIPPO
    },
    **{
        f"bit-{data}-{size}": Published(
            f"gs://bit_models/BiT-{data.upper()}-R{size[1:]}.npz", None, "pre-head"
        )
        for data in "ms"
        for size in ("r50x1", "r50x3", "r101x1", "r101x3", "r152x4")
    },
    **{
        f"mixer-{size}-16-{short}": Published(
            f"gs://mixer_models/{data}/Mixer-{size.upper()}_16.npz", None, "pre-head"
        )
        for size in "bl"
        for short, data in (("i1k", "imagenet1k"), ("i21k", "imagenet21k"))
    },
    **{name: Published(_hub(model)) for name, model in HUB.items()},
    **{name: Published(_hub(model), features="pre-head") for name, model in CONVNEXT.items()},
    **{
        name: Published(_hub(f"timm/{model}"), features="default" if "clip" in name else "pre-head")
        for name, model in TIMM.items()
    },
}


def settled(config: TowerConfig) -> TowerConfig:
    """The configuration with what is known of its tower in the places left open.

    Raises:
        ValueError: no checkpoint was given, and none is known.
    """
    known = PUBLISHED.get(config.tower)
    if known is None:
        if config.checkpoint is None:
            raise ValueError(
                f"--checkpoint: must say where the weights of {config.tower} are, found none, and no place is known. "
                "Give --checkpoint, or a tower with one (lit-embed --list-towers)."
            )
        return config
    return replace(
        config,
        checkpoint=config.checkpoint or known.checkpoint,
        resize=config.resize or known.resize,
        features=known.features if config.features == "default" else config.features,
    )
