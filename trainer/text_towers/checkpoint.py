"""A text checkpoint as it is published: its tensors, the configuration beside them, the folder it lies in."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from schemas.hub import TEXT_FILES
from schemas.model_folder import find_folder, is_folder, read_folder
from schemas.safetensors_file import read_safetensors
from schemas.storage import Folder, StorageOptions
from schemas.weights import params_subtree, read_weights, subtree

# What else a two-tower file of the reference holds: the image tower, the scale's logarithm, the bias.
OTHER_HALF = ("img/", "t", "b")
# What an export of a run has beside the encoder: where it is from, and its head.
EXPORTED, DENSE = "lit.json", "2_Dense"


@dataclass(frozen=True)
class TextCheckpoint:
    """What a weight file or a Hugging Face folder holds.

    Attributes:
        path: as it was given.
        source: bare name, for messages.
        tensors: all of them, by the file's own names, optimizer state left out.
        config: `config.json` of a folder; None for a weight file.
        folder: the folder; None for a weight file.
        sha256: of the weights, as an image tower of the same file or folder has it.
    """

    path: str
    source: str
    tensors: Mapping[str, np.ndarray]
    config: Mapping[str, Any] | None
    folder: Folder | None
    sha256: str

    @property
    def is_two_tower(self) -> bool:
        """Whether it is the reference's file of both towers."""
        return any(name.startswith("txt/") for name in self.tensors)

    def text_tensors(self) -> dict[str, np.ndarray]:
        """Those below `txt/` in a two-tower file, else all of them.

        Raises:
            ValueError: a two-tower file holds something that is neither tower, nor `t`, nor `b`.
        """
        if not self.is_two_tower:
            return dict(self.tensors)
        surplus = [
            name for name in self.tensors if not name.startswith(("txt/", "img/")) and name not in OTHER_HALF
        ]
        if surplus:
            raise ValueError(
                f"{self.source}: a file of two towers must hold txt/, img/, t and b, found also {surplus}."
            )
        return subtree(self.tensors, "txt/")

    def configured(self, model_types: Iterable[str]) -> dict[str, Any]:
        """The folder's configuration, once it is of one of these kinds.

        Raises:
            ValueError: this is no folder, or one of another kind of model.
        """
        known = list(model_types)
        if self.config is None:
            raise ValueError(
                f"{self.source}: must be a Hugging Face folder with config.json (of {' or '.join(known)}), found a "
                "weight file alone. Give the folder."
            )
        if self.config.get("model_type") not in known:
            raise ValueError(
                f"{self.source}/config.json: model_type must be {' or '.join(map(repr, known))}, found "
                f"{self.config.get('model_type')!r}. Name the family it is of with --text-tower."
            )
        return dict(self.config)


def read_text_checkpoint(path: str, options: StorageOptions | None = None) -> TextCheckpoint:
    """Reads a weight file, a Hugging Face folder, or one of the hub (`hf://org/model@revision`).

    Tensors of a local folder are views of the mapped files.

    Args:
        path: local path or any fsspec URL.
        options: fsspec options by protocol.

    Raises:
        FileNotFoundError: there is nothing, or it is on the hub and cannot be had.
        ValueError: it is damaged, or neither a weight file nor a model folder.
    """
    if is_folder(path) or Folder(path, options).is_folder():
        folder, source = find_folder(path, options, TEXT_FILES)
        model = read_folder(folder.path, options)
        return TextCheckpoint(path, source, model.tensors, model.config, folder, model.sha256)
    weights = read_weights(path, options)
    return TextCheckpoint(path, weights.source, params_subtree(weights.tensors), None, None, weights.sha256)


def pool_of(folder: Folder, default: str) -> str:
    """How a sentence-transformers folder pools; others say nothing, and get the default.

    Raises:
        ValueError: it pools in another way than by the mean or the first token.
    """
    if not folder.exists("1_Pooling/config.json"):
        return default
    pooling = json.loads(folder.read("1_Pooling/config.json"))
    modes = [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on]
    modes += [pooling["pooling_mode"]] if "pooling_mode" in pooling else []
    known = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "mean": "mean",
        "cls": "cls",
    }
    if len(modes) != 1 or modes[0] not in known:
        raise ValueError(
            f"{folder.path}/1_Pooling/config.json: must ask for the mean or the cls token alone, found {modes}. "
            "Set --text-pool mean or cls to pool otherwise than the checkpoint was trained."
        )
    return known[modes[0]]


def exported_head(folder: Folder, width: int) -> dict[str, np.ndarray] | None:
    """The head of a folder that `lit-export` wrote, {} where the tower has none; None for any other folder.

    The Dense layer of somebody else's folder leads to another space than an image tower's, and is no such head.

    Args:
        folder: of the checkpoint.
        width: H, of the features the head takes.

    Returns:
        kernel float32 [H, D] and, where there is one, bias float32 [D].

    Raises:
        ValueError: the file is damaged, or holds no such layer.
    """
    name = f"{DENSE}/model.safetensors"
    if not folder.exists(EXPORTED):
        return None
    if not folder.exists(name):
        return {}
    try:
        tensors = read_safetensors(memoryview(folder.read(name)))
    except ValueError as error:
        raise ValueError(f"{name}: {error}. Export the run again.") from None
    found = {tensor: tuple(array.shape) for tensor, array in tensors.items()}
    weight = found.get("linear.weight", ())
    wanted = {"linear.weight": (*weight[:1], width), "linear.bias": weight[:1]}
    if len(weight) != 2 or any(wanted.get(tensor) != shape for tensor, shape in found.items()):
        raise ValueError(
            f"{name}: must hold linear.weight [D, {width}] and at most linear.bias [D] beside it, found {found}. "
            "Export the run again."
        )
    head = {"kernel": np.array(tensors["linear.weight"].T, np.float32, order="C")}
    return head | ({"bias": np.array(tensors["linear.bias"], np.float32)} if "linear.bias" in found else {})


def take_head(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Takes `head/kernel` [H, D] and `head/bias` [D] out of a text tower of the reference; {} where it has none."""
    leaves = [leaf for leaf in ("kernel", "bias") if f"head/{leaf}" in tensors]
    return {leaf: np.array(tensors.pop(f"head/{leaf}"), np.float32) for leaf in leaves}


def bfloat16_names(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """The tensors a file holds as bfloat16; all others of a text tower are float32 there."""
    return sorted(name for name, tensor in tensors.items() if tensor.dtype == ml_dtypes.bfloat16)
