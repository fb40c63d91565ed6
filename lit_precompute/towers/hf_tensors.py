"""The tensors of a Hugging Face tower: what shapes a network needs, and a file's tensors held against them."""

from collections.abc import Callable, Mapping

import numpy as np

from lit_precompute.towers.tower import RandomWeights, Weights, check_fit
from schemas.weights import WeightsFile

Shapes = dict[str, tuple[int, ...]]


def load_tensors(
    weights: Weights,
    shapes: Shapes,
    renamed: Callable[[str], str] = str,
    ignored: Callable[[str], bool] = lambda name: False,
) -> dict[str, np.ndarray]:
    """The tensors a network needs, as float32; those that have it already are not copied.

    Args:
        weights: where they come from.
        shapes: what is needed.
        renamed: gives a tensor of the file the name used here.
        ignored: whether a tensor of the file, by its own name, is known and not needed.

    Raises:
        ValueError: names every missing, surplus and mis-shaped tensor at once.
    """
    if isinstance(weights, RandomWeights):
        return _random(weights, shapes)
    found = {renamed(name): array for name, array in weights.tensors.items() if not ignored(name)}
    check_fit(weights.source, found, shapes)
    return {name: found[name].astype(np.float32, copy=False) for name in shapes}


def _random(weights: RandomWeights, shapes: Shapes) -> dict[str, np.ndarray]:
    """Drawn kernels; norms and layer scales that change nothing, no biases."""
    tensors = weights.draw(shapes, lambda name: max(1, int(np.prod(shapes[name][1:]))))
    for name, shape in shapes.items():
        if len(shape) == 1 and not name.endswith(("class_embedding", "cls_token")):
            scale = name.endswith((".weight", ".lambda1", "layer_scale_parameter"))
            tensors[name] = np.full(shape, float(scale), np.float32)
    return tensors


def with_kernels(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors, each linear layer's float32 `weight` [out, in] as its `kernel` [in, out], a view.

    So processors multiply fastest in float32; in bfloat16 it is by rows of the file's [out, in]. The weight of a
    convolution that cuts patches, [out, 3, p, p], becomes [out, p * p * 3] before.
    """
    layers = {
        name: array.transpose(0, 2, 3, 1).reshape(len(array), -1) if cuts_patches(name, array.ndim) else array
        for name, array in tensors.items()
    }
    return {
        (f"{name.removesuffix('weight')}kernel" if turn else name): (array.T if turn else array)
        for name, array in layers.items()
        for turn in [is_linear(name, array.ndim) and array.dtype == np.float32]
    }


def is_linear(name: str, dims: int) -> bool:
    """Whether a tensor is the weight of a linear layer, and not a table of positions."""
    return name.endswith(".weight") and dims == 2 and "position" not in name


def cuts_patches(name: str, dims: int) -> bool:
    """Whether a tensor is the weight of a convolution as wide as its stride; ConvNeXt's files have others of 4 axes."""
    return name.endswith(".weight") and dims == 4 and not name.endswith(("dwconv.weight", "grn.weight"))


def has_tensor(weights: Weights, name: str) -> bool:
    """Whether a file has a tensor; random weights have all."""
    return not isinstance(weights, WeightsFile) or name in weights.tensors


def strip_prefix(prefix: str) -> Callable[[str], str]:
    return lambda name: name.removeprefix(prefix)


def without(params: Mapping[str, np.ndarray], layer: str) -> dict[str, np.ndarray]:
    """The tensors but those of one layer."""
    return {name: array for name, array in params.items() if not name.startswith(f"{layer}.")}


def dense(shapes: Shapes, name: str, outputs: int, inputs: int, bias: bool = True) -> None:
    """Adds the shapes of a linear layer."""
    shapes[f"{name}.weight"] = (outputs, inputs)
    if bias:
        shapes[f"{name}.bias"] = (outputs,)


def norm(shapes: Shapes, name: str, width: int) -> None:
    """Adds the shapes of a layer norm."""
    shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)
