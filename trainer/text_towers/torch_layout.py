"""Parameters of a Flax module from tensors laid out as torch lays them out."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from trainer.text_towers.fitting import refuse_misfits

Path = tuple[str, ...]  # a parameter's place in the tree: ("layer_0", "query", "kernel")


def from_torch(
    tensors: Mapping[str, np.ndarray], module: nn.Module, published_name: Callable[[Path], str], source: str
) -> dict[str, Any]:
    """The parameters of `module`, every one of them and every tensor used.

    Args:
        tensors: by published name; what is known to be of no use is left out before.
        module: called with tokens int32 [B, L].
        published_name: the tensor's name for a parameter.
        source: what to call the checkpoint in an error.

    Returns:
        Nested dict of float32 arrays; linear weights [out, in] become kernels [in, out].

    Raises:
        ValueError: names all missing, surplus and mis-shaped tensors, and those that are not floating point.
    """
    specs = parameter_shapes(module)
    wanted = {
        published_name(path): shape[::-1] if path[-1] == "kernel" else shape for path, shape in specs.items()
    }
    refuse_misfits(tensors, wanted, source)
    params = {}
    for path in specs:
        tensor = tensors[published_name(path)]
        # copied in every case: a view would keep the whole file in memory
        params[path] = np.array(tensor.T if path[-1] == "kernel" else tensor, np.float32, order="C")
    return unflatten_dict(params)


def to_torch(params: Mapping[str, Any], published_name: Callable[[Path], str]) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: parameters under their published names, kernels [in, out] as weights [out, in]."""
    return {
        published_name(path): np.ascontiguousarray(np.asarray(leaf).T if path[-1] == "kernel" else leaf)
        for path, leaf in flatten_dict(dict(params)).items()
    }


def parameter_shapes(module: nn.Module, length: int = 1) -> dict[Path, tuple[int, ...]]:
    """Place and shape of every parameter of a text backbone; nothing is allocated."""
    tokens = np.zeros((1, length), np.int32)
    specs = jax.eval_shape(module.init, jax.random.key(0), tokens)["params"]
    return {path: spec.shape for path, spec in flatten_dict(specs).items()}


def renamed(
    tensors: Mapping[str, np.ndarray], name_of: Callable[[str], str | None], source: str
) -> dict[str, np.ndarray]:
    """Tensors under one spelling.

    Args:
        tensors: as the file names them.
        name_of: the one spelling of a name; None leaves the tensor out.
        source: what to call the checkpoint in an error.

    Raises:
        ValueError: two names of the file are one.
    """
    names = {name: name_of(name) for name in tensors}
    twice = [name for name, n in Counter(names.values()).items() if n > 1 and name is not None]
    if twice:
        raise ValueError(f"{source}: each tensor must be there once, found under two spellings: {twice}.")
    return {new: tensors[old] for old, new in names.items() if new is not None}
