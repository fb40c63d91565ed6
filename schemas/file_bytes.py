"""The bytes of a whole file and their digest: mapped where the file is local, read into memory where it is not.

A mapped file costs no memory of its own: pages come in as they are looked at, and go when memory is short. The digest
is taken by reading, so that it brings none in.
"""

import hashlib
import io
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from fsspec.implementations.local import LocalFileSystem

from schemas.retries import with_retries
from schemas.storage import NOT_STORAGE, StorageOptions, filesystem

CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class FileBytes:
    """A file, in two ways of reading it.

    Attributes:
        file: stands at the beginning; open only inside the `with`.
        data: all its bytes; what is made from it may outlive the `with`.
        sha256: hex digest of them.
    """

    file: BinaryIO
    data: memoryview
    sha256: str


@contextmanager
def open_bytes(path: str, name: str, options: StorageOptions | None = None) -> Iterator[FileBytes]:
    """Opens a file of any fsspec path.

    Args:
        name: of the file, for messages.

    Raises:
        FileNotFoundError: there is no such file.
    """
    fs, inner = filesystem(path, options)
    if not isinstance(fs, LocalFileSystem):
        raw, sha256 = with_retries(lambda: _read(fs, inner), name, NOT_STORAGE)
        yield FileBytes(raw, raw.getbuffer(), sha256)
        return
    with open(inner, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        empty = os.fstat(file.fileno()).st_size == 0  # which cannot be mapped
        data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        file.seek(0)
        yield FileBytes(file, memoryview(data), digest.hexdigest())


def _read(fs: object, inner: str) -> tuple[io.BytesIO, str]:
    """The file in memory and its digest: one read, so that the digest is of what will be parsed."""
    raw, digest = io.BytesIO(), hashlib.sha256()
    with fs.open(inner, "rb") as handle:  # type: ignore[attr-defined]
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
            raw.write(chunk)
    raw.seek(0)
    return raw, digest.hexdigest()
