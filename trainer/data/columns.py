"""A folder of array columns on disk, built aside and published whole, read back as memory maps."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from trainer.data.locks import only_one

_INDEX = "columns.json"
_WORTH_SAYING = 64 << 20  # bytes


@dataclass(frozen=True)
class Columns:
    """A published folder.

    Attributes:
        path: the folder.
        arrays: by name, memory-mapped and read-only.
        facts: what the builder said about them (JSON values).
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]


class ColumnWriter:
    """Grows columns by appending to one raw file each, so that their length need not be known before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._columns: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}

    def __enter__(self) -> "ColumnWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def append(self, name: str, rows: np.ndarray) -> None:
        """Add rows [n, ...] to a column; every call must give the same dtype and trailing shape."""
        dtype, shape = self._columns.setdefault(name, (rows.dtype, (0, *rows.shape[1:])))
        assert dtype == rows.dtype, f"{name}: {dtype} became {rows.dtype}"
        assert shape[1:] == rows.shape[1:], f"{name}: {shape[1:]} became {rows.shape[1:]}"
        if name not in self._files:
            self._files[name] = open(self._folder / f"{name}.bin", "wb")  # noqa: SIM115 (closed by __exit__)
        self._files[name].write(np.ascontiguousarray(rows).data if rows.size else b"")
        self._columns[name] = (dtype, (shape[0] + len(rows), *shape[1:]))

    def adopt(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        """Count a column in whose file, `<name>.bin`, lies in the folder already."""
        self._columns[name] = (dtype, shape)

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Put everything on the disk, the index last."""
        for file in self._files.values():
            to_disk(file)
        columns = {
            name: {"dtype": dtype.str, "shape": list(shape)} for name, (dtype, shape) in self._columns.items()
        }
        with open(self._folder / _INDEX, "wb") as file:
            file.write(json.dumps({"facts": facts, "columns": columns}, indent=2).encode())
            to_disk(file)


def open_or_build(
    root: Path, name: str, build: Callable[[Path], None], need_bytes: int, what: str | None = None
) -> Columns:
    """Open the folder `root/name`, after building it when it is not there or not whole.

    Of several processes that want the same folder one builds it and the others wait. Nobody ever sees half of
    one: it is built in `root/.building-<name>` and renamed at the end. What a killed build left there is
    handed to the next.

    Args:
        root: where the folders lie; made if need be.
        name: the folder's name; the same name must mean the same content.
        build: fills the folder it is given, which may hold what a killed build left; `columns_in` builds at once.
        need_bytes: about how many bytes the columns will take.
        what: what is built, for people.

    Raises:
        ValueError: there is less free space than is still needed.
    """
    folder, building = root / name, root / f".building-{name}"
    if (columns := open_columns(folder)) is not None:
        return columns
    root.mkdir(parents=True, exist_ok=True)
    with only_one(root / ".locks" / name, what or name):
        if (columns := open_columns(folder)) is None:
            still = max(need_bytes - bytes_on_disk(building), 0)
            check_free_space(root, still, what or name)
            if still >= _WORTH_SAYING:
                print(f"{what or name}: about {still / 2**30:.2f} GiB in {root}", file=sys.stderr, flush=True)
            building.mkdir(exist_ok=True)
            build(building)
            _publish(building, folder)
            columns = open_columns(folder)
    assert columns is not None, f"{folder} was just published"
    return columns


def built_at_once(build: Callable[[ColumnWriter], Mapping[str, Any]]) -> Callable[[Path], None]:
    """A build for `open_or_build` that begins anew each time and leaves nothing when it fails.

    Args:
        build: appends the columns and returns the facts to keep with them.
    """

    def fill(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        try:
            with ColumnWriter(folder) as writer:
                writer.finish(build(writer))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    return fill


def open_columns(folder: Path) -> Columns | None:
    """Open a published folder, or return None where it is missing or a file has not its size."""
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        layouts = {
            name: (np.dtype(column["dtype"]), tuple(column["shape"]))
            for name, column in index["columns"].items()
        }
        arrays = {name: _map(folder / f"{name}.bin", *layout) for name, layout in layouts.items()}
    except (OSError, ValueError, KeyError):
        return None
    return Columns(folder, arrays, index["facts"])


def check_free_space(root: Path, need_bytes: int, what: str) -> None:
    """Refuse before writing when the disk under `root` cannot hold `need_bytes` more."""
    free = shutil.disk_usage(root).free
    if need_bytes > free:
        raise ValueError(
            f"spool_dir: {root} must have {need_bytes / 2**30:.2f} GiB free for {what}, found"
            f" {free / 2**30:.2f} GiB. Free some, or name a folder on a larger disk with --spool-dir."
        )


def bytes_on_disk(folder: Path) -> int:
    """What the files below a folder take on the disk: of files with holes, what is written; 0 without a folder."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def to_disk(file: BinaryIO) -> None:
    """Return once a file's bytes would outlive a power cut."""
    file.flush()
    os.fsync(file.fileno())


def _map(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if (found := path.stat().st_size) != expected:
        raise ValueError(f"{path}: must have {expected} bytes, found {found}")
    if expected == 0:
        return np.zeros(shape, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r", shape=shape))


def _publish(building: Path, folder: Path) -> None:
    """Rename the built folder to its name. A damaged folder in the way goes."""
    if folder.exists():
        shutil.rmtree(folder)
    with contextlib.suppress(OSError):
        building.rename(folder)
    if not folder.exists():
        raise OSError(f"{folder}: could not be put in place. Check that {folder.parent} may be written to.")
