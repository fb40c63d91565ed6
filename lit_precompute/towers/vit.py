"""ViT towers: from a checkpoint or a seed to parameters and a forward function.

What the network looks like is read from the shapes in the checkpoint, so one name, `vit`, takes every size; names such
as `vit-b-32` say a size that the checkpoint must have, or that random weights get.
"""

from dataclasses import replace

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

# Names of towers are lower case, so the two sizes that differ only in case are spelt out.
PRESETS = {
    **{f"vit-{name.lower()}-{patch}": (name, patch) for name in ("mu", "Ti", "S", "M") for patch in (16, 32)},
    **{f"vit-b-{patch}": ("B", patch) for patch in (8, 16, 32)},
    **{f"vit-l-{patch}": ("L", patch) for patch in (14, 16, 32)},
    **{f"vit-so400m-{patch}": ("So400m", patch) for patch in (14, 16)},
    **{f"vit-h-{patch}": ("H", patch) for patch in (14, 16)},
    **{f"vit-giant-{patch}": ("g", patch) for patch in (14, 16)},
    **{f"vit-giant-opt-{patch}": ("g-opt", patch) for patch in (14, 16)},
    "vit-gigantic-14": ("G", 14),
    "vit-gigantic-opt-14": ("G-opt", 14),
    "vit-e-14": ("e", 14),
}


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
    tensors = rename_old_layouts(weights.tensors, config.pool)
    posemb = "sincos2d" if config.tower == FIXED_POSITIONS else "learn"
    shape = infer_shape(weights.source, tensors, config.pool, posemb)
    if config.tower in PRESETS:
        _check_preset(config.tower, shape)
    if posemb == "sincos2d":
        size = config.image_size or DEFAULT_IMAGE_SIZE
        _grid(size, shape)
    else:
        trained = trained_grid(weights.source, tensors)
        size = config.image_size or trained * shape.patch
        tensors["pos_embedding"] = resample_posemb(tensors["pos_embedding"], _grid(size, shape))
    check_fit(weights.source, tensors, tensor_shapes(shape, size))
    return shape, size, tensors


def _from_seed(config: TowerConfig, weights: RandomWeights) -> tuple[ViTShape, int, Tensors]:
    if config.tower not in PRESETS:
        raise ValueError(
            f"--tower: random weights need a size, such as vit-b-32, found {config.tower!r}. "
            f"Known: {', '.join(PRESETS)}."
        )
    shape, size = preset(config.tower, config.pool or "gap"), config.image_size or DEFAULT_IMAGE_SIZE
    _grid(size, shape)
    return shape, size, draw(weights, tensor_shapes(shape, size))


def preset(tower: str, pool: str) -> ViTShape:
    """The network of a name such as `vit-b-32`, without a head."""
    variant, patch = PRESETS[tower]
    width, depth, mlp, heads = VARIANTS[variant]
    return ViTShape(width, depth, mlp, heads, patch, pool)


def _check_preset(tower: str, found: ViTShape) -> None:
    wanted = preset(tower, found.pool).to_json()
    differing = [
        name for name in ("width", "depth", "mlp", "heads", "patch") if wanted[name] != getattr(found, name)
    ]
    if differing:
        listed = ", ".join(f"{name} {wanted[name]} (found {getattr(found, name)})" for name in differing)
        raise ValueError(
            f"--tower {tower} must have {listed}. Use --tower vit to take the checkpoint as it is."
        )


def _grid(size: int, shape: ViTShape) -> int:
    if size < shape.patch:
        raise ValueError(f"--image-size: must be at least the patch, {shape.patch} pixels, found {size}.")
    return size // shape.patch


def tensor_shapes(shape: ViTShape, size: int) -> Shapes:
    """Name and shape of every parameter."""
    return parameter_shapes(ViT(shape), size)
