"""Parameter trees (nested dicts of arrays) as flat names, files and digests."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts of arrays -> `{"a/b/c": array}` on the host, in order of name."""
    flat: dict[str, np.ndarray] = {}
    for name in sorted(tree):
        value = tree[name]
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`; names are not otherwise looked at."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return tree


def digest(tree: Mapping[str, Any], *facts: str) -> str:
    """Hex sha256 of names, dtypes, shapes and bytes of a tree's arrays, and of further texts."""
    found = hashlib.sha256("\0".join(facts).encode())
    for name, array in flatten(tree).items():
        found.update(f"{name} {array.dtype} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def count(tree: Any) -> int:
    """How many numbers a tree holds."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))


def save(tree: Mapping[str, Any], path: Path) -> None:
    """Write a tree as one safetensors file."""
    save_file({name: np.asarray(array, order="C") for name, array in flatten(tree).items()}, path)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return unflatten(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path}: must be a whole safetensors file, found: {error}. Restore it.") from None
