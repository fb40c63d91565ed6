"""A Hugging Face model folder: its configuration, its preprocessing, its tensors.

Tensors of a local folder are views of the mapped files, so that nothing is copied and the half of a dual model that is
not used never enters memory.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.hub import FILES, download, is_hub_model
from schemas.storage import Folder, StorageOptions
from schemas.weights import Format, WeightsFile, bare_name, read_weights

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH_SINGLE, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
LAYOUTS: tuple[tuple[Format, str, str], ...] = (  # the first that is there is read
    ("safetensors", SINGLE, INDEX),
    ("torch", TORCH_SINGLE, TORCH_INDEX),
)


@dataclass(frozen=True)
class ModelFolder(WeightsFile):
    """A weight file, or several read as one, with what stands beside it.

    Attributes:
        sha256: of the weight file's bytes; of the files' digests in the order of their names where there are several.
        source: bare name of the folder, or `org/model` of the hub.
        config: `config.json`.
        processor: `preprocessor_config.json`, or None where there is none.
    """

    config: Mapping[str, Any]
    processor: Mapping[str, Any] | None


def is_folder(checkpoint: str) -> bool:
    """Whether `checkpoint` names a model folder: a local one, a URL that ends in /, or a model of the hub."""
    if "://" in checkpoint:
        return is_hub_model(checkpoint) or checkpoint.endswith("/")
    return os.path.isdir(checkpoint)


def find_folder(
    checkpoint: str, storage_options: StorageOptions | None = None, files: Sequence[str] = FILES
) -> tuple[Folder, str]:
    """Where a model's files lie, fetched first where it is a model of the hub.

    Args:
        checkpoint: a folder, or `hf://org/model@revision`.
        storage_options: fsspec options by protocol.
        files: name patterns of what is fetched from the hub.

    Returns:
        The folder, and its bare name or `org/model` for messages.

    Raises:
        FileNotFoundError: it is on the hub and cannot be had.
    """
    if not is_hub_model(checkpoint):
        return Folder(checkpoint.rstrip("/"), storage_options), bare_name(checkpoint)
    path = download(checkpoint, (storage_options or {}).get("hf"), files)
    return Folder(str(path), storage_options), checkpoint.removeprefix("hf://").split("@")[0].rstrip("/")


def read_folder(
    checkpoint: str, storage_options: StorageOptions | None = None, files: Sequence[str] = FILES
) -> ModelFolder:
    """Reads a model folder.

    Raises:
        FileNotFoundError: it is on the hub and cannot be had.
        ValueError: it is no model folder, or a file in it is damaged or missing (all missing ones are named).
    """
    folder, source = find_folder(checkpoint, storage_options, files)
    present = folder.sizes()
    layout = next((layout for layout in LAYOUTS if {*layout[1:]} & set(present)), None)
    if CONFIG not in present or layout is None:
        raise ValueError(
            f"{source}: a model folder must hold {CONFIG} and {SINGLE} or {TORCH_SINGLE} (or {INDEX} or {TORCH_INDEX} "
            f"and its parts), found {', '.join(sorted(present)) or 'no files'}."
        )
    format_, single, index = layout
    if single in present:
        tensors, sha256 = _read_file(folder, single, format_, storage_options)
    else:
        tensors, sha256 = _read_parts(folder, source, index, format_, storage_options)
    processor = _read_json(folder, source, PROCESSOR) if PROCESSOR in present else None
    return ModelFolder(tensors, sha256, format_, source, _read_json(folder, source, CONFIG), processor)


def _read_parts(
    folder: Folder, source: str, index: str, format_: Format, options: StorageOptions | None
) -> tuple[dict[str, np.ndarray], str]:
    places, present = _weight_map(folder, source, index), folder.sizes()
    names = sorted(set(places.values()))
    _refuse(source, f"{index} names files that must be there", (n for n in names if n not in present))
    tensors: dict[str, np.ndarray] = {}
    digest, wrong = hashlib.sha256(), []
    for name in names:
        found, sha256 = _read_file(folder, name, format_, options)
        digest.update(bytes.fromhex(sha256))
        listed = {tensor for tensor, file in places.items() if file == name}
        wrong += [f"{tensor} (not in {name})" for tensor in sorted(listed - set(found))]
        wrong += [f"{tensor} (in {name}, not listed)" for tensor in sorted(set(found) - listed)]
        tensors |= found
    _refuse(source, f"{index} must list the tensors of its files", wrong)
    return tensors, digest.hexdigest()


def _weight_map(folder: Folder, source: str, index: str) -> dict[str, str]:
    """{tensor: bare file name}."""
    places = _read_json(folder, source, index).get("weight_map")
    names = places.values() if isinstance(places, dict) else []
    if not names or not all(isinstance(name, str) and name == os.path.basename(name) != "" for name in names):
        raise ValueError(
            f"{source}: {index} must hold a weight_map of tensors to files of the same folder, found "
            f"{str(places)[:200]}."
        )
    assert isinstance(places, dict)
    return places


def _refuse(source: str, rule: str, broken: Iterable[str]) -> None:
    listed = "; ".join(broken)
    if listed:
        raise ValueError(f"{source}: {rule}, found otherwise: {listed}. Is the download complete?")


def _read_file(
    folder: Folder, name: str, format_: Format, options: StorageOptions | None
) -> tuple[dict[str, np.ndarray], str]:
    """Tensors and sha256 of one file."""
    weights = read_weights(f"{folder.path}/{name}", options)
    if weights.format != format_:
        raise ValueError(f"{name}: must be a {format_} file, found {weights.format}.")
    return dict(weights.tensors), weights.sha256


def _read_json(folder: Folder, source: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(folder.read(name))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: {name} must be JSON, found {error}.") from None
    if not isinstance(value, dict):
        raise ValueError(f"{source}: {name} must be a JSON object, found {type(value).__name__}.")
    return value
