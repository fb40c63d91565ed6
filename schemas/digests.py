"""Digests of values, tables and texts: the same content gives the same digest on every machine."""

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no spaces, UTF-8 kept, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_json(value: Any) -> str:
    """Hex sha256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def key64(data: bytes) -> int:
    """The first 8 bytes of sha256(data), read little endian: a uint64 that names the content."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def keys128(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Two uint64 [n]: the first and the second 8 bytes, little endian, of each text's sha256.

    Half of it may meet by chance among a billion texts (1 in 37); both halves together do not.
    """
    digests = b"".join(hashlib.sha256(text.encode()).digest()[:16] for text in texts)
    halves = np.frombuffer(digests, "<u8").reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


def caption_key(text: str) -> int:
    """uint64 name of a caption's wording, blind to case, Unicode form and spacing.

    The same wording has the same key in every store, which is how two equal captions in one batch are seen.

    >>> caption_key("A  dog ") == caption_key("a dog")
    True
    """
    return key64(" ".join(unicodedata.normalize("NFC", text.casefold()).split()).encode())


def image_keys(image_sha256: np.ndarray) -> np.ndarray:
    """uint64 [n]: the first 8 bytes, little endian, of each image's sha256.

    Args:
        image_sha256: uint8 [n, 32].
    """
    return np.ascontiguousarray(image_sha256[:, :8]).view("<u8").reshape(-1)


def table_digest(table: pa.Table) -> str:
    """Hex sha256 of a table's logical content: column names, rows, nulls.

    How the rows were cut into chunks, compressed or laid out in a Parquet file does not matter, nor what lies
    under a null. `docs/file-format.md` says the rule in words.
    """
    digest = hashlib.sha256()
    for name in table.schema.names:
        digest.update(name.encode() + b"\0")
        column = table.column(name).combine_chunks()
        _digest_array(digest, column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    return digest.hexdigest()


def _digest_array(digest: "hashlib._Hash", array: pa.Array) -> None:
    """Length, validity bits, then the values that are not null: lengths before bytes, parents before children."""
    kind = array.type
    digest.update(len(array).to_bytes(8, "little"))
    digest.update(np.packbits(np.asarray(array.is_valid())).tobytes())
    array = array.drop_null()
    if pa.types.is_struct(kind):
        for child in array.flatten():
            _digest_array(digest, child)
    elif pa.types.is_fixed_size_list(kind):
        _digest_array(digest, array.flatten())
    elif pa.types.is_list(kind):
        digest.update(np.asarray(array.value_lengths(), dtype="<i4").tobytes())
        _digest_array(digest, array.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        digest.update(np.asarray(pc.binary_length(array), dtype="<i4").tobytes())
        if len(array):
            ends = np.frombuffer(array.buffers()[1], "<i4", len(array) + 1, 4 * array.offset)
            digest.update(memoryview(array.buffers()[2] or b"")[ends[0] : ends[-1]])
    elif pa.types.is_fixed_size_binary(kind):
        if len(array):
            start = array.offset * kind.byte_width
            digest.update(memoryview(array.buffers()[1])[start : start + len(array) * kind.byte_width])
    else:
        digest.update(np.ascontiguousarray(array.to_numpy(zero_copy_only=False)).tobytes())
