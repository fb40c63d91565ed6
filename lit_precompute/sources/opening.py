"""An input file that reopens itself when storage stumbles."""

import errno
import io
from collections.abc import Callable
from typing import Any, TypeVar

from lit_precompute.units import Slice, bare_name
from schemas.retries import ATTEMPTS, FINAL, with_retries
from schemas.storage import StorageOptions, filesystem

__all__ = ["ATTEMPTS", "FINAL", "InputStream", "read_whole", "with_retries"]

T = TypeVar("T")


class InputStream(io.RawIOBase):
    """A planned input, open for reading at any place.

    Args:
        planned: path and size.
        options: fsspec options by protocol.

    Attributes:
        name: bare name of the file.
        size: its bytes; -1 when the storage does not say.
        failure: the storage trouble that ended reading, which libraries between us and the file may reword.

    Raises:
        OSError: by any method that touches the storage, when it fails for good or the file is not the one planned.
    """

    def __init__(self, planned: Slice, options: StorageOptions | None = None) -> None:
        super().__init__()
        self.name = bare_name(planned.path)
        self.failure: OSError | None = None
        self._fs, self._path = filesystem(planned.path, options)
        self._file: Any = None
        self._place = 0
        self.size = planned.size
        self._keep(lambda: with_retries(self._reopen, self.name))
        self._check_size(planned.size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self.size < 0:
            self.failure = io.UnsupportedOperation(f"{self.name}: the storage does not say how long it is")
            raise self.failure
        self._place = max(
            0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        )
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        wanted = -1 if size is None or size < 0 else size
        data = self._keep(lambda: with_retries(lambda: self._read_here(wanted), self.name))
        self._place += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed and self._file is not None:
            self._file.close()
        super().close()

    def _read_here(self, size: int) -> bytes:
        if self._file is None:
            self._reopen()
        try:
            if self._file.tell() != self._place:
                self._file.seek(self._place)
            return bytes(self._file.read(size))
        except Exception:
            self._file = None  # opened afresh by the next attempt
            raise

    def _reopen(self) -> None:
        self._file = self._fs.open(self._path, "rb")

    def _check_size(self, planned: int) -> None:
        found = self._keep(lambda: with_retries(lambda: self._fs.size(self._path), self.name))
        if planned < 0 or found is None:
            self.size = -1 if found is None else int(found)
        elif found != planned:
            self.close()
            raise OSError(
                errno.ESTALE,
                f"{self.name}: must have {planned:,} bytes as planned, found {found:,}. "
                "The input changed; restore it, or write to another --output.",
            )

    def _keep(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except OSError as error:
            self.failure = error
            raise


def read_whole(planned: Slice, options: StorageOptions | None = None) -> bytes:
    """All bytes of a small file. Raises OSError as `InputStream` does."""
    with InputStream(planned, options) as file:
        return file.read()
