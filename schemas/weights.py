"""A weight file (npz, safetensors, torch archive) as flat `{name: array}`, with nothing in it executed.

The format is told by content, never by the file's name. Every size a file declares is compared with the bytes it
really has before anything is allocated, so a broken or hostile file costs a ValueError and no more.

Tensors are views of the file's bytes wherever these are not compressed (safetensors, `numpy.savez`, torch): of a local
file only those tensors take memory that are used, and of another one there is one copy.
"""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np

from schemas.file_bytes import FileBytes, open_bytes
from schemas.safetensors_file import looks_like_safetensors, read_safetensors
from schemas.storage import StorageOptions
from schemas.torch_archive import LEGACY_MAGIC, read_legacy_torch, read_zip_torch
from schemas.zip_members import ZipMembers

MAX_DIMS = 64  # numpy's own limit
MAX_NPY_HEADER_BYTES = 10_000  # numpy's own limit
NPY_FIELDS = (
    r"'descr'\s*:\s*'([<>|=]?[a-zA-Z?]\d{0,4})'",
    r"'fortran_order'\s*:\s*(True|False)",
    r"'shape'\s*:\s*\(([\d\sL,]{0,2000})\)",
)

Format = Literal["npz", "safetensors", "torch"]


@dataclass(frozen=True)
class WeightsFile:
    """What a weight file holds.

    Attributes:
        tensors: read-only arrays by flat name, in the file's order; bfloat16 ones have `ml_dtypes.bfloat16`.
        sha256: hex digest of the file's bytes, the very ones the tensors were made from.
        format: how the file was laid out.
        source: bare name of the file, for messages and manifests.
    """

    tensors: Mapping[str, np.ndarray]
    sha256: str
    format: Format
    source: str


def read_weights(path: str, storage_options: StorageOptions | None = None) -> WeightsFile:
    """All tensors of a weight file. A local file must stay as it is while they are in use.

    Args:
        path: local path or any fsspec URL.
        storage_options: fsspec options by protocol.

    Returns:
        The tensors and where they came from.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no weight file, is damaged, or holds something besides tensors.
    """
    source = bare_name(path)
    with open_bytes(path, source, storage_options) as raw:
        try:
            format_, tensors = _read_tensors(raw)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
    for tensor in tensors.values():
        tensor.flags.writeable = False
    return WeightsFile(tensors, raw.sha256, format_, source)


def params_subtree(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters of a big_vision checkpoint, without the optimizer state stored beside them.

    Precedence: `params/...`, else `opt/target/...`, else the whole file.
    """
    for prefix in ("params/", "opt/target/"):
        inside = subtree(tensors, prefix)
        if inside:
            return inside
    return dict(tensors)


def subtree(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The tensors whose name starts with `prefix`, named without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def bare_name(path: str) -> str:
    """The last component of a path or URL, without query, which may carry credentials."""
    if "://" in path:
        path = path.split("?", 1)[0].split("#", 1)[0]
    return path.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1]


def _read_tensors(raw: FileBytes) -> tuple[Format, dict[str, np.ndarray]]:
    head = bytes(raw.data[:16])
    if head.startswith(b"PK\x03\x04"):
        members = ZipMembers(raw.file, raw.data)
        if any(name.rsplit("/", 1)[-1] == "data.pkl" for name in members.names):
            return "torch", read_zip_torch(members)
        return "npz", _read_npz(members)
    if head.startswith(LEGACY_MAGIC):
        return "torch", read_legacy_torch(raw.file, raw.data)
    if looks_like_safetensors(head):
        return "safetensors", read_safetensors(raw.data)
    found = "an empty file" if not head else f"a file that starts with {head!r}"
    raise ValueError(
        f"must be an .npz, a .safetensors or a torch archive, found {found}. Is the download complete, and is this "
        "the weight file itself rather than a page or a pointer to it?"
    )


def _read_npz(members: ZipMembers) -> dict[str, np.ndarray]:
    tensors = {}
    for name in members.names:
        if not name.endswith(".npy"):
            raise ValueError(f"an .npz must hold only .npy arrays, found member {name!r}.")
        key = name.removesuffix(".npy")
        try:
            tensors[key] = _read_npy(members.read(name))
        except (ValueError, TypeError, struct.error) as error:
            raise ValueError(f"array {key!r}: {error}") from error
    if not tensors:
        raise ValueError("an .npz of weights must hold at least one array, found none.")
    return tensors


def _read_npy(data: memoryview) -> np.ndarray:
    """One .npy member; refuses objects, checks the declared shape against the bytes there are."""
    start, header = _npy_header(data)
    descr, order, shape_text = (re.search(pattern, header) for pattern in NPY_FIELDS)
    if descr is None or order is None or shape_text is None:
        raise ValueError("must be numbers of one type, found another .npy header; nothing else is read here.")
    shape = tuple(int(side) for side in re.findall(r"\d+", shape_text[1]))
    dtype = np.dtype(
        ml_dtypes.bfloat16 if descr[1].lstrip("<|") == "V2" else descr[1]
    )  # so numpy saves bfloat16
    if dtype.kind not in "fiub" and dtype != ml_dtypes.bfloat16:
        raise ValueError(f"must be numbers, found dtype {dtype}; nothing else is read from a weight file.")
    found, needed = len(data) - start, math.prod(shape) * dtype.itemsize
    if found != needed or len(shape) > MAX_DIMS:
        raise ValueError(
            f"shape {shape} of {dtype} needs {needed} bytes, found {found}; the file is damaged."
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if order[1] == "True" else "C")


def _npy_header(data: memoryview) -> tuple[int, str]:
    """Where the numbers start, and the header's text. It is searched, not evaluated as numpy would."""
    version = tuple(data[6:8])
    if bytes(data[:6]) != b"\x93NUMPY" or version not in ((1, 0), (2, 0)):
        raise ValueError("must be in the .npy format, version 1.0 or 2.0, found other bytes.")
    form = "<H" if version == (1, 0) else "<I"
    (length,) = struct.unpack_from(form, data, 8)
    start = 8 + struct.calcsize(form)
    if length > min(MAX_NPY_HEADER_BYTES, len(data) - start):
        raise ValueError(f"the .npy header declares {length} bytes, more than there can be.")
    return start + length, bytes(data[start : start + length]).decode("latin-1")
