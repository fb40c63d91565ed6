"""One process at a time: a lock that ends with the process that holds it, however that ends."""

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of a file; wait, and say so, while another process does.

    Args:
        path: the lock's file; made if need be and left there, for removing it would let two in.
        what: what is done under it, for the message.

    Raises:
        OSError: the filesystem has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            _take(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        except BlockingIOError:
            file.seek(0)
            print(
                f"{what}: {file.read().strip() or 'another run'} is at it; waiting",
                file=sys.stderr,
                flush=True,
            )
            _take(file.fileno(), fcntl.LOCK_EX, path)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _take(descriptor: int, kind: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path}: must lie on a filesystem with locks, found {error.strerror}. Name another with --spool-dir.",
        ) from None
