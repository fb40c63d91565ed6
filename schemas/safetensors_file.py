"""The safetensors layout: a JSON header, then the bytes of every tensor back to back."""

import json
import math
import struct
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_DIMS = 64  # numpy's own limit

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


def looks_like_safetensors(head: bytes) -> bool:
    """Whether a file that starts so has a JSON object where the header must be."""
    return len(head) >= 9 and head[8:9] == b"{"


def read_safetensors(data: memoryview) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file, as views of `data`.

    Args:
        data: the whole file.

    Raises:
        ValueError: the header is not valid JSON, or does not fit the bytes that follow it.
    """
    header, start = _header(data)
    body = data[start:]
    end = 0
    tensors = {}
    for name, dtype, shape, begin, stop in sorted(_entries(header), key=lambda entry: entry[3:]):
        size = math.prod(shape) * dtype.itemsize
        if begin != end or stop - begin != size or stop > len(body):
            raise ValueError(
                f"tensor {name!r}: {dtype} of shape {list(shape)} must take bytes {end} to {end + size} of the "
                f"{len(body)} there are, found {begin} to {stop} declared. Is the download complete?"
            )
        tensors[name] = np.frombuffer(body[begin:stop], dtype).reshape(shape)
        end = stop
    if end != len(body):
        raise ValueError(f"the header must describe all {len(body)} bytes of data, found {end} described.")
    return tensors


def _header(data: memoryview) -> tuple[dict[str, Any], int]:
    (length,) = struct.unpack("<Q", data[:8])
    room = len(data) - 8
    if length > min(room, MAX_HEADER_BYTES):
        raise ValueError(
            f"the header declares {length} bytes, at most {min(room, MAX_HEADER_BYTES)} can be there. "
            "Is the download complete?"
        )
    try:
        header = json.loads(bytes(data[8 : 8 + length]), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"the header must be a JSON object, found {type(error).__name__}: {error}"
        ) from error
    header.pop("__metadata__", None)
    return header, 8 + length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice")
    return result


def _entries(header: dict[str, Any]) -> Iterable[tuple[str, np.dtype, tuple[int, ...], int, int]]:
    for name, entry in header.items():
        entry = entry if isinstance(entry, dict) else {}
        dtype = entry.get("dtype")
        shape, span = _naturals(entry.get("shape")), _naturals(entry.get("data_offsets"))
        if not isinstance(dtype, str) or shape is None or span is None or len(span) != 2:
            raise ValueError(
                f"tensor {name!r} must have dtype, shape and data_offsets, found {str(entry)[:200]}."
            )
        if dtype not in DTYPES or len(shape) > MAX_DIMS:
            raise ValueError(
                f"tensor {name!r}: dtype must be one of {', '.join(DTYPES)} in at most {MAX_DIMS} dimensions, "
                f"found {dtype!r} in {len(shape)}."
            )
        yield name, DTYPES[dtype], tuple(shape), span[0], span[1]


def _naturals(value: Any) -> list[int] | None:
    """`value` if it is a list of integers from 0 to 2**48."""
    fits = isinstance(value, list) and all(type(item) is int and 0 <= item <= 1 << 48 for item in value)
    return value if fits else None
