"""Putting a file under its final name whole or not at all; the first one wins."""

import errno
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from schemas.storage import Folder

_ADVICE = (
    ((errno.ENOSPC, errno.EDQUOT), "Make room and run the same command again."),
    ((errno.EACCES, errno.EPERM, errno.EROFS), "Give the right to write there, or choose another --output."),
)
TEMPORARY = ".tmp-"
REMOVERS = 16  # removing is one request a file, and storage is far


def publish(folder: Folder, name: str, data: bytes) -> bool:
    """Publishes `data` as `folder/name` unless the name is taken.

    Locally: a temporary file, fsync, then a hard link, which fails when the name exists. Elsewhere the storage's
    own create-if-absent; where it has none, of two attempts at the same moment the last wins.

    Returns:
        True when it was published, False when the name was taken (nothing is changed then).
    """
    if not folder.is_local:
        return _create(folder, name, data)
    with _explained(folder, name):
        temporary = _write_temporary(folder, name, data)
        try:
            os.link(temporary, folder.at(name))
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        _sync_folder(folder)
    return True


def replace(folder: Folder, name: str, data: bytes) -> None:
    """Publishes `data` as `folder/name`, in one step, over whatever was there."""
    if not folder.is_local:
        folder.again(lambda: folder.fs.pipe_file(folder.at(name), data), name)
        return
    with _explained(folder, name):
        os.replace(_write_temporary(folder, name, data), folder.at(name))
        _sync_folder(folder)


def remove(folder: Folder, name: str) -> None:
    """Removes a file; nothing happens when it is not there."""
    try:
        folder.again(lambda: folder.fs.rm_file(folder.at(name)), name)
    except FileNotFoundError:
        return


def remove_folder(folder: Folder) -> None:
    """Removes a folder and the files in it; nothing happens when it is not there."""
    with ThreadPoolExecutor(REMOVERS) as pool:
        list(pool.map(lambda name: remove(folder, name), folder.sizes()))
    if folder.is_folder():  # object stores have none once it is empty
        try:
            folder.again(lambda: folder.fs.rm(folder.root, recursive=True))
        except FileNotFoundError:
            return


def sweep(folder: Folder) -> None:
    """Removes the temporary files of attempts that died on this machine; only local folders ever hold some."""
    if not folder.is_local:
        return
    for name in folder.sizes():
        if not name.startswith(TEMPORARY):
            continue
        host, pid = name.removeprefix(TEMPORARY).split("~")[:2]
        if host == host_name() and not process_lives(int(pid)):
            remove(folder, name)


def _create(folder: Folder, name: str, data: bytes) -> bool:
    if folder.exists(name):  # some storages overwrite, whatever is asked of them
        return False
    try:
        folder.again(lambda: folder.fs.pipe_file(folder.at(name), data, mode="create"), name)
    except FileExistsError:
        return _is_ours(folder, name, data)
    except NotImplementedError:
        replace(folder, name, data)
    return True


def _is_ours(folder: Folder, name: str, data: bytes) -> bool:
    """Whether an earlier try of ours got through and only its answer was lost."""
    try:
        return folder.read(name) == data
    except FileNotFoundError:
        return False


@contextmanager
def _explained(folder: Folder, name: str) -> Iterator[None]:
    """Lets a full disk or a missing right name the file that was to be written, and say what to do."""
    try:
        yield
    except OSError as error:
        advice = next((text for numbers, text in _ADVICE if error.errno in numbers), None)
        if advice is None:
            raise
        said = os.strerror(error.errno or 0)
        raise OSError(
            error.errno, f"{folder.path}/{name} must be written, found: {said}. {advice}"
        ) from error


def _write_temporary(folder: Folder, name: str, data: bytes) -> Path:
    os.makedirs(folder.root, exist_ok=True)
    path = Path(folder.at(f"{TEMPORARY}{host_name()}~{os.getpid()}~{uuid.uuid4().hex[:8]}~{name}"))
    try:
        with open(path, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


def host_name() -> str:
    """This machine, as temporary files and leases name it."""
    return os.uname().nodename.replace("~", "-").replace("/", "-")


def process_lives(pid: int) -> bool:
    """Whether a process of this machine is running."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Folder) -> None:
    handle = os.open(folder.root, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
