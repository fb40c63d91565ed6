"""ViT towers: from a checkpoint or a seed to parameters and a forward function.

What the network looks like is read from the shapes in the checkpoint, so one name, `vit`, takes every size; names such
as `vit-b-32` say a size that the checkpoint must have, or that random weights get.
"""

from dataclasses import dataclass, replace

from lit_precompute.config import TowerConfig
from lit_precompute.towers.linen import (
    DEFAULT_IMAGE_SIZE,
    Shapes,
    Tensors,
    draw,
    finished,
    parameter_shapes,
)
from lit_precompute.towers.tower import RandomWeights, Tower, Weights, check_fit
from lit_precompute.towers.vit_checkpoint import (
    ViTShape,
    infer_shape,
    rename_old_layouts,
    resample_posemb,
    trained_grid,
)
from lit_precompute.towers.vit_network import ViT
from schemas.weights import WeightsFile

POOLS = ("gap", "map", "tok", "0")
FIXED_POSITIONS = "vit-sincos2d"  # the one tower without learned positions

# name: (width, depth, mlp, heads)
VARIANTS = {
    "mu": (32, 1, 128, 2),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "So400m": (1152, 27, 4304, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "g-opt": (1536, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
    "G-opt": (1536, 48, 8192, 16),
    "e": (1792, 56, 15360, 16),
}


@dataclass(frozen=True)
class Preset:
    """A size by name, or a published tower, of which more is known.

    Attributes:
        variant: name in `VARIANTS`.
        pool: how it pools, or None for any.
        image_size: pixels it was trained with, or None for any.
        head: width of its head, or None. Checked where `pool` is known.
    """

    variant: str
    patch: int
    pool: str | None = None
    image_size: int | None = None
    head: int | None = None


# Names of towers are lower case, so the two sizes that differ only in case are spelt out.
SIZES = {
    **{
        f"vit-{name.lower()}-{patch}": Preset(name, patch)
        for name in ("mu", "Ti", "S", "M")
        for patch in (16, 32)
    },
    **{f"vit-b-{patch}": Preset("B", patch) for patch in (8, 16, 32)},
    **{f"vit-l-{patch}": Preset("L", patch) for patch in (14, 16, 32)},
    **{f"vit-so400m-{patch}": Preset("So400m", patch) for patch in (14, 16)},
    **{f"vit-h-{patch}": Preset("H", patch) for patch in (14, 16)},
    **{f"vit-giant-{patch}": Preset("g", patch) for patch in (14, 16)},
    **{f"vit-giant-opt-{patch}": Preset("g-opt", patch) for patch in (14, 16)},
    "vit-gigantic-14": Preset("G", 14),
    "vit-gigantic-opt-14": Preset("G-opt", 14),
    "vit-e-14": Preset("e", 14),
}
LIT = {
    "lit-b16b": Preset("B", 16, "tok", 224, 768),
    "lit-b16b_2": Preset("B", 16, "tok", 224),
    "lit-coco-b16b": Preset("B", 16, "tok", 224),
    **dict.fromkeys(("lit-l16l", "lit-l16s", "lit-l16ti"), Preset("L", 16, "tok", 224)),
}
CLIPPO = dict.fromkeys(
    (
        *("clippo-b16-yfcc100m", "clippo-b16-yfcc100m-i21k-init", "clippo-b16-100c4"),
        *(f"clippo-b16-yfcc100m-i21k-init-{share}c4" for share in (25, 50, 75)),
    ),
    Preset("B", 16, "map", 224, 768),
)
AUGREG = {
    f"augreg-{name.lower()}-{patch}": Preset(name, patch, "tok", 224, 21_843)
    for name, patch in (("Ti", 16), ("S", 32), ("S", 16), ("B", 32), ("B", 16), ("B", 8), ("L", 16))
}


def _map_towers(name: str, variant: str, patch: int, *sizes: int) -> dict[str, Preset]:
    return {f"{name}-{patch}-{size}": Preset(variant, patch, "map", size) for size in sizes}


# The .npz files of SigLIP and SigLIP 2; names without npz are their Hugging Face versions.
SIGLIP = {
    **_map_towers("siglip-npz-base", "B", 16, 224, 256, 384, 512),
    **_map_towers("siglip-npz-large", "L", 16, 256, 384),
    **_map_towers("siglip-npz-so400m", "So400m", 14, 224, 384),
    **_map_towers("siglip-npz-i18n-base", "B", 16, 256),
    **_map_towers("siglip-npz-i18n-so400m", "So400m", 16, 256),
    **_map_towers("siglip2-npz-base", "B", 16, 224, 256, 384, 512),
    **_map_towers("siglip2-npz-base", "B", 32, 256),
    **_map_towers("siglip2-npz-large", "L", 16, 256, 384, 512),
    **_map_towers("siglip2-npz-so400m", "So400m", 14, 224, 384),
    **_map_towers("siglip2-npz-so400m", "So400m", 16, 256, 384, 512),
    **_map_towers("siglip2-npz-giant-opt", "g-opt", 16, 256, 384),
}
PRESETS = SIZES | LIT | CLIPPO | AUGREG | SIGLIP


def build(config: TowerConfig, weights: Weights) -> Tower:
    """The tower with weights from a file or a seed.

    Raises:
        ValueError: pool or preset do not fit the checkpoint, or its tensors do not fit each other (all listed).
    """
    if config.pool is not None and config.pool not in POOLS:
        raise ValueError(f"--pool: must be one of {', '.join(POOLS)}, found {config.pool!r}.")
    if isinstance(weights, RandomWeights):
        shape, size, tensors = _from_seed(config, weights)
    else:
        shape, size, tensors = _from_file(config, weights)
    if config.features == "pre-head" and shape.num_classes:
        shape = replace(shape, num_classes=None)
        tensors = {name: array for name, array in tensors.items() if not name.startswith("head/")}
    architecture = {"family": "vit"} | shape.to_json()
    dim = shape.num_classes or shape.rep_size or shape.width
    return finished(config, weights, ViT(shape), tensors, size, architecture, dim)


def _from_file(config: TowerConfig, weights: WeightsFile) -> tuple[ViTShape, int, Tensors]:
    tensors = _for_pool(rename_old_layouts(weights.tensors, config.pool), config.pool)
    posemb = "sincos2d" if config.tower == FIXED_POSITIONS else "learn"
    shape = infer_shape(weights.source, tensors, config.pool, posemb)
    known = PRESETS.get(config.tower)
    if known:
        _check_preset(config, known, weights.source, tensors, shape)
    if posemb == "sincos2d":
        size = config.image_size or DEFAULT_IMAGE_SIZE
        _grid(size, shape)
    else:
        trained = trained_grid(weights.source, tensors)
        size = config.image_size or (known and known.image_size) or trained * shape.patch
        tensors["pos_embedding"] = resample_posemb(tensors["pos_embedding"], _grid(size, shape))
    check_fit(weights.source, tensors, tensor_shapes(shape, size))
    return shape, size, tensors


def _from_seed(config: TowerConfig, weights: RandomWeights) -> tuple[ViTShape, int, Tensors]:
    if config.tower not in PRESETS:
        raise ValueError(
            f"--tower: random weights need a size, such as vit-b-32, found {config.tower!r}. "
            f"Known: {', '.join(PRESETS)}."
        )
    known = PRESETS[config.tower]
    shape = weights.of_size(preset(known, config.pool))
    size = config.image_size or known.image_size or DEFAULT_IMAGE_SIZE
    _grid(size, shape)
    return shape, size, draw(weights, tensor_shapes(shape, size))


def preset(known: Preset, pool: str | None = None) -> ViTShape:
    """The network of a preset."""
    width, depth, mlp, heads = VARIANTS[known.variant]
    pool = pool or known.pool or "gap"
    return ViTShape(width, depth, mlp, heads, known.patch, pool, num_classes=known.head)


def _for_pool(tensors: Tensors, pool: str | None) -> Tensors:
    """Without the class token and the MAP head of a file that is asked to pool otherwise."""
    if pool is None:
        return tensors
    unused = {"map": ("cls",), "tok": ("MAPHead_0/",)}.get(pool, ("cls", "MAPHead_0/"))
    return {name: array for name, array in tensors.items() if not name.startswith(unused)}


def _check_preset(config: TowerConfig, known: Preset, source: str, tensors: Tensors, found: ViTShape) -> None:
    wanted = preset(known, found.pool if config.pool or not known.pool else known.pool).to_json()
    facts = found.to_json()
    if not known.pool:  # a size: its head is the file's own business
        wanted["num_classes"] = facts["num_classes"]
    differing = [
        f"{name} {wanted[name]} (found {facts[name]})"
        for name in ("width", "depth", "mlp", "heads", "patch", "pool", "num_classes")
        if wanted[name] != facts[name]
    ]
    if known.image_size and not differing:
        trained = trained_grid(source, tensors)
        if trained != known.image_size // known.patch:
            differing = [f"a grid of {known.image_size // known.patch} positions a side (found {trained})"]
    if differing:
        raise ValueError(
            f"--tower {config.tower} must have {', '.join(differing)}. Use --tower vit to take the checkpoint as it "
            "is."
        )


def _grid(size: int, shape: ViTShape) -> int:
    if size < shape.patch:
        raise ValueError(f"--image-size: must be at least the patch, {shape.patch} pixels, found {size}.")
    return size // shape.patch


def tensor_shapes(shape: ViTShape, size: int) -> Shapes:
    """Name and shape of every parameter."""
    return parameter_shapes(ViT(shape), size)
