"""BiT ResNets, of Big Transfer (arXiv 1912.11370) and of its successors: group norms and standardised convolutions.

Two flavours, told apart by their names: `v2`, the paper's, which normalises before each convolution, and `v1`, which
normalises after it.
"""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lit_precompute.config import TowerConfig
from lit_precompute.towers.linen import (
    DEFAULT_IMAGE_SIZE,
    Tensors,
    draw,
    finished,
    image_half,
    parameter_shapes,
)
from lit_precompute.towers.tower import RandomWeights, Tower, Weights, check_fit
from schemas.weights import WeightsFile

GROUPS = 32
DEPTHS = {"r26": (2, 2, 2, 2), "r50": (3, 4, 6, 3), "r101": (3, 4, 23, 3), "r152": (3, 8, 36, 3)}
MAX_UNITS = 1000  # of a stage; the deepest published has 36
ROOTS = {"v1": "conv_root/kernel", "v2": "root_block/conv_root/kernel"}

# Names of the files written by the paper's own code, part by part of a unit.
LEGACY = (
    (r"resnet/root_block/standardized_conv2d/kernel", "root_block/conv_root/kernel"),
    (r"resnet/group_norm/(gamma|beta)", r"norm-pre-head/\1"),
    (r"resnet/head/conv2d/(kernel|bias)", r"head/\1"),
    (r"resnet/(block\d+/unit\d+)/a/proj/standardized_conv2d/kernel", r"\1/conv_proj/kernel"),
    (r"resnet/(block\d+/unit\d+)/([abc])/standardized_conv2d/kernel", r"\1/conv\2/kernel"),
    (r"resnet/(block\d+/unit\d+)/([abc])/group_norm/(gamma|beta)", r"\1/gn\2/\3"),
)
LETTERS = {"conva": "conv1", "convb": "conv2", "convc": "conv3", "gna": "gn1", "gnb": "gn2", "gnc": "gn3"}
PARTS = {"gamma": "scale", "beta": "bias"} | LETTERS


@dataclass(frozen=True)
class BiTShape:
    """What a BiT ResNet looks like.

    Attributes:
        flavour: `v1` or `v2`.
        depths: units of each stage.
        width: channels of the root, 64 times the width factor.
        num_classes: width of the head, or None.
    """

    flavour: str
    depths: tuple[int, ...]
    width: int
    num_classes: int | None = None

    @property
    def channels(self) -> int:
        """Of the last stage."""
        return self.width << (len(self.depths) + 1)


def _sizes(prefix: str, num_classes: int | None) -> dict[str, BiTShape]:
    """The sizes of the paper."""
    sizes = ("r50", 1), ("r50", 3), ("r101", 1), ("r101", 3), ("r152", 4)
    return {
        f"{prefix}{name}x{factor}": BiTShape("v2", DEPTHS[name], 64 * factor, num_classes)
        for name, factor in sizes
    }


PRESETS = {
    **_sizes("bit-", None),
    "bit-r152x2": BiTShape("v2", DEPTHS["r152"], 128),
    **{f"bit-v1-{name}x1": BiTShape("v1", depths, 64) for name, depths in DEPTHS.items()},
    **_sizes("bit-m-", 21_843),  # as published, trained on ImageNet-21k
    **_sizes("bit-s-", 1000),  # on ImageNet
}


def build(config: TowerConfig, weights: Weights) -> Tower:
    """The tower of a file or a seed: the mean of the last channels, or the head's logits where a file has a head.

    Raises:
        ValueError: the checkpoint is no BiT, does not fit the preset, or its tensors do not fit (all listed).
    """
    if config.pool not in (None, "mean"):
        raise ValueError(f"--pool: {config.tower} must be given none or mean, found {config.pool!r}.")
    size = config.image_size or DEFAULT_IMAGE_SIZE
    if isinstance(weights, RandomWeights):
        shape = weights.of_size(_preset(config.tower))
        tensors = draw(weights, parameter_shapes(BiT(shape), size))
    else:
        shape, tensors = _from_file(config, weights, size)
    if config.features == "pre-head" and shape.num_classes:
        shape = replace(shape, num_classes=None)
        tensors = {name: array for name, array in tensors.items() if not name.startswith("head/")}
    architecture = {"family": "bit"} | asdict(shape) | {"depths": list(shape.depths)}
    dim = shape.num_classes or shape.channels
    return finished(config, weights, BiT(shape), tensors, size, architecture, dim)


def _preset(tower: str) -> BiTShape:
    if tower not in PRESETS:
        raise ValueError(
            f"--tower: random weights need a size, found {tower!r}. Known: {', '.join(PRESETS)}."
        )
    return PRESETS[tower]


def _from_file(config: TowerConfig, weights: WeightsFile, size: int) -> tuple[BiTShape, Tensors]:
    tensors = rename_old_layouts(weights.tensors)
    shape = infer_shape(weights.source, tensors)
    if config.tower in PRESETS:
        wanted = PRESETS[config.tower]
        if (shape if wanted.num_classes else replace(shape, num_classes=None)) != wanted:
            raise ValueError(
                f"--tower {config.tower} must be {wanted}, found {shape} in {weights.source}. Use --tower bit to "
                "take the checkpoint as it is."
            )
    check_fit(weights.source, tensors, parameter_shapes(BiT(shape), size))
    return shape, tensors


def rename_old_layouts(tensors: Any) -> Tensors:
    """Tensors under the names of today, vectors without the axes that some files put before their channels."""
    renamed = {_renamed(name): array for name, array in image_half(tensors).items()}
    for name, array in renamed.items():
        if re.search(r"(^|/)(gn\w*|norm-pre-head)/(scale|bias)$", name) and array.ndim > 1:
            renamed[name] = array.reshape(-1) if array.size == array.shape[-1] else array
        elif name == "head/kernel" and array.ndim == 4 and array.shape[:2] == (1, 1):
            renamed[name] = array[0, 0]
    return renamed


def _renamed(name: str) -> str:
    name = re.sub(r"/standardized_conv2d_\d+/", "/standardized_conv2d/", name)
    for old, new in LEGACY:
        if match := re.fullmatch(old, name):
            return "/".join(PARTS.get(part, part) for part in match.expand(new).split("/"))
    return name


def infer_shape(source: str, tensors: Tensors) -> BiTShape:
    """What the network looks like, from names and shapes.

    Raises:
        ValueError: the file is no BiT of either flavour.
    """
    flavour = next((flavour for flavour, name in ROOTS.items() if name in tensors), None)
    root = tensors[ROOTS[flavour]] if flavour else None
    width = root.shape[-1] if root is not None and root.ndim == 4 else 0
    units = [re.match(r"block(\d{1,3})/unit(\d{1,9})/", name) for name in tensors]
    depths: dict[int, int] = {}
    for match in filter(None, units):
        depths[int(match[1])] = max(depths.get(int(match[1]), 0), int(match[2]))
    if flavour is None or not width or width % GROUPS or not depths or max(depths.values()) > MAX_UNITS:
        raise ValueError(
            f"{source}: a BiT checkpoint must have {' or '.join(ROOTS.values())} of a multiple of {GROUPS} channels "
            f"and block1/unit1, ... of at most {MAX_UNITS} units, found {len(tensors)} tensors such as "
            f"{', '.join(sorted(tensors)[:5])}. Is this the weight file of another kind of tower?"
        )
    head = [tensors[name].shape[-1] for name in ("head/kernel", "head/bias") if name in tensors]
    stages = tuple(depths.get(number, 1) for number in range(1, min(max(depths), 16) + 1))
    return BiTShape(flavour, stages, width, head[0] if head else None)


class StdConv(nn.Module):
    """A convolution without bias whose kernel is standardised over all but the output channels."""

    features: int
    side: int
    stride: int
    flavour: str
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        centred = kernel - jnp.mean(kernel, axis=(0, 1, 2))
        variance = jnp.mean(jnp.square(centred), axis=(0, 1, 2))
        scale = jnp.sqrt(variance + 1e-10) if self.flavour == "v2" else jnp.sqrt(variance) + 1e-5
        around = (
            self.side // 2
        )  # v2 pads alike on both sides; v1, as TensorFlow does, the odd pixel at the end
        x, kernel = nn.dtypes.promote_dtype(x, centred / scale, dtype=self.dtype)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            [(around, around)] * 2 if self.flavour == "v2" else "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class Unit(nn.Module):
    """A bottleneck with its shortcut: narrow, look around, widen."""

    narrow: int
    stride: int
    flavour: str
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, norm = _layers(self.flavour, self.dtype)
        wide = 4 * self.narrow
        projects = self.stride > 1 or x.shape[-1] != wide
        if self.flavour == "v2":
            y = nn.relu(norm(name="gn1")(x))
            shortcut = conv(wide, 1, self.stride, name="conv_proj")(y) if projects else x
            y = nn.relu(norm(name="gn2")(conv(self.narrow, 1, 1, name="conv1")(y)))
            y = nn.relu(norm(name="gn3")(conv(self.narrow, 3, self.stride, name="conv2")(y)))
            return shortcut + conv(wide, 1, 1, name="conv3")(y)
        shortcut = norm(name="gn_proj")(conv(wide, 1, self.stride, name="conv_proj")(x)) if projects else x
        y = nn.relu(norm(name="gn1")(conv(self.narrow, 1, 1, name="conv1")(x)))
        y = nn.relu(norm(name="gn2")(conv(self.narrow, 3, self.stride, name="conv2")(y)))
        return nn.relu(shortcut + norm(name="gn3")(conv(wide, 1, 1, name="conv3")(y)))


class Root(nn.Module):
    """The first convolution under the name that the `v2` files give it."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return StdConv(self.features, 7, 2, "v2", self.dtype, name="conv_root")(images)


class BiT(nn.Module):
    """Images float32 [B, H, W, 3] in [-1, 1] -> float32 [B, D]."""

    shape: BiTShape
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        shape = self.shape
        conv, norm = _layers(shape.flavour, self.dtype)
        if shape.flavour == "v2":
            x = nn.max_pool(
                Root(shape.width, self.dtype, name="root_block")(images), (3, 3), (2, 2), [(1, 1)] * 2
            )
        else:
            x = nn.relu(norm(name="gn_root")(conv(shape.width, 7, 2, name="conv_root")(images)))
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for number, depth in enumerate(shape.depths):
            narrow, name = shape.width << number, f"block{number + 1}"
            x = Stage(narrow, depth, number > 0, shape.flavour, self.dtype, name=name)(x)
        if shape.flavour == "v2":
            x = nn.relu(norm(name="norm-pre-head")(x))
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(shape.num_classes, name="head")(x) if shape.num_classes else x


class Stage(nn.Module):
    """Units of one width; the first halves the image in all stages but the first."""

    narrow: int
    depth: int
    halves: bool
    flavour: str
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        digits = 2 if self.flavour == "v2" else 1
        for number in range(1, self.depth + 1):
            stride = 2 if self.halves and number == 1 else 1
            x = Unit(self.narrow, stride, self.flavour, self.dtype, name=f"unit{number:0{digits}}")(x)
        return x


def _layers(flavour: str, dtype: Any) -> tuple[Callable[..., StdConv], Callable[..., nn.GroupNorm]]:
    epsilon = 1e-5 if flavour == "v2" else 1e-6
    norm = partial(nn.GroupNorm, GROUPS, epsilon=epsilon, use_fast_variance=False)
    return partial(StdConv, flavour=flavour, dtype=dtype), norm
