"""State dicts saved by torch, old archive and zip, read without torch and without running their pickles."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from schemas.pickle_subset import read_pickle
from schemas.zip_members import ZipMembers

# The old layout starts with this number, pickled.
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
LEGACY_PROTOCOL = 1001
MAX_DIMS = 64

STORAGE_DTYPES: dict[str, np.dtype] = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}


# Messages below never show a value out of a pickle: shared references can make its text endless.


@dataclass(frozen=True)
class _Storage:
    """A run of numbers somewhere in the file, known by its key before its bytes are read."""

    key: str
    dtype: np.dtype
    length: int


@dataclass(frozen=True)
class _Tensor:
    """A strided window on a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, numbers: np.ndarray) -> np.ndarray:
        strides = tuple(stride * numbers.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides)


@dataclass
class _Storages:
    """Every storage a pickle mentions, by key; each key must always mean the same."""

    by_key: dict[str, _Storage] = field(default_factory=dict)

    def __call__(self, persistent_id: Any) -> _Storage:
        """Answers a persistent id: ("storage", type, key, device, length[, None])."""
        kind, dtype, key, _, length, *rest = persistent_id
        plain = isinstance(dtype, np.dtype) and isinstance(key, (str, int)) and type(length) is int
        if kind != "storage" or not plain or any(rest):
            raise ValueError("a persistent id that names no plain storage")
        storage = _Storage(str(key), dtype, length)
        if length < 0 or self.by_key.setdefault(storage.key, storage) != storage:
            raise ValueError(f"storage {key!r} described twice or with a negative length")
        return storage


def read_legacy_torch(raw: BinaryIO, data: memoryview) -> dict[str, np.ndarray]:
    """Tensors of the layout torch wrote before 1.6: five pickles, then each storage as a length and its bytes.

    Args:
        raw: the file, at its beginning.
        data: all its bytes.

    Raises:
        ValueError: the file is cut, damaged, big endian, or holds something besides tensors.
    """
    raw.seek(len(LEGACY_MAGIC))
    protocol, system = read_pickle(raw, {}), read_pickle(raw, {})
    if protocol != LEGACY_PROTOCOL:
        raise ValueError(f"a torch archive must have protocol {LEGACY_PROTOCOL}, found another.")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("a torch archive must be little endian, found another byte order.")
    storages = _Storages()
    tensors = _state_dict(read_pickle(raw, _names(), storages))
    keys = read_pickle(raw, {})
    plain = isinstance(keys, list) and all(isinstance(key, (str, int)) for key in keys)
    if not plain or sorted(map(str, keys)) != sorted(storages.by_key):
        raise ValueError(
            "a torch archive must list exactly the storages its tensors use, found another list."
        )
    numbers, at = {}, raw.tell()
    for key in map(str, keys):
        numbers[key], at = _legacy_storage(data, at, storages.by_key[key])
    return _arrays(tensors, numbers)


def _legacy_storage(data: memoryview, at: int, storage: _Storage) -> tuple[np.ndarray, int]:
    start, size = at + 8, storage.length * storage.dtype.itemsize
    if start + size > len(data):
        raise ValueError(
            f"storage {storage.key!r} must take bytes {start} to {start + size}, found a file of {len(data)}. "
            "Is the download complete?"
        )
    (length,) = struct.unpack("<q", data[at:start])
    if length != storage.length:
        raise ValueError(
            f"storage {storage.key!r} must have {storage.length} numbers, found {length} declared."
        )
    return np.frombuffer(data[start : start + size], storage.dtype), start + size


def read_zip_torch(members: ZipMembers) -> dict[str, np.ndarray]:
    """Tensors of the layout torch writes since 1.6: `NAME/data.pkl` and one `NAME/data/KEY` a storage.

    Raises:
        ValueError: the archive is damaged, big endian, or holds something besides tensors.
    """
    pickles = [name for name in members.names if name.rsplit("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError(f"a torch archive must hold one data.pkl, found {len(pickles)}.")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in members.names and bytes(members.read(f"{folder}byteorder")) != b"little":
        raise ValueError("a torch archive must be little endian, found another byte order.")
    storages = _Storages()
    tensors = _state_dict(read_pickle(io.BytesIO(members.read(pickles[0])), _names(), storages))
    numbers = {}
    for key, storage in storages.by_key.items():
        data = members.read(f"{folder}data/{key}")
        if len(data) != storage.length * storage.dtype.itemsize:
            raise ValueError(f"storage {key!r} must have {storage.length} numbers, found {len(data)} bytes.")
        numbers[key] = np.frombuffer(data, storage.dtype)
    return _arrays(tensors, numbers)


def _names() -> dict[str, Any]:
    """Every name a pickle may use, and what it means here."""
    functions: dict[str, Callable[..., Any]] = {
        "collections OrderedDict": _ordered_dict,
        "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
        "torch Size": tuple,
    }
    return functions | STORAGE_DTYPES


def _ordered_dict(*items: Any) -> dict[Any, Any]:
    if items:
        raise ValueError("an OrderedDict made from values")
    return {}


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """The tensor a pickle describes, with its window checked against its storage."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(n) is int and 0 <= n <= 1 << 48 for n in numbers):
        raise ValueError("a tensor without a storage, or with a negative or huge size")
    if len(shape) != len(strides) or len(shape) > MAX_DIMS:
        raise ValueError(f"a tensor with {len(shape)} sizes and {len(strides)} strides")
    count, last = 1, offset
    for size, stride in zip(shape, strides, strict=True):
        count, last = count * size, last + (size - 1) * stride
    # count <= length refuses windows that show one number many times: they would grow when copied.
    if count > storage.length or (count and last >= storage.length):
        raise ValueError(f"a tensor of shape {tuple(shape)} in a storage of {storage.length} numbers")
    return _Tensor(storage, min(offset, storage.length), tuple(shape), tuple(strides))


def _state_dict(value: Any) -> dict[str, _Tensor]:
    """The tensors by name: of the value itself, or of the `state_dict` a training script wrapped it in."""
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    if not isinstance(value, dict) or not value:
        raise ValueError(f"a torch archive must hold a dict of tensors, found {type(value).__name__}.")
    other = [str(name)[:80] for name, item in value.items() if not isinstance(item, _Tensor)]
    if other:
        raise ValueError(
            f"a state dict must hold only tensors, found other values under {', '.join(other[:10])}. "
            "Save the state dict alone."
        )
    return {str(name): tensor for name, tensor in value.items()}


def _arrays(tensors: dict[str, _Tensor], numbers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: tensor.array(numbers[tensor.storage.key]) for name, tensor in tensors.items()}
