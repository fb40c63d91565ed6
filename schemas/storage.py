"""A folder on any filesystem fsspec knows, with the options its protocol needs."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from schemas.retries import FINAL, with_retries

BLOCK = 8 << 20  # bytes
GROUPS = 64  # row groups of a long table held at a time
OBJECT_STORES = {"gs", "gcs", "s3", "s3a"}  # fsspec remembers their listings; what others write must be seen
# Trying again mends none of these.
NOT_STORAGE = (*FINAL, ValueError, TypeError, NotImplementedError, ImportError, MemoryError)

StorageOptions = Mapping[str, Mapping[str, Any]]  # fsspec options by protocol: {"gs": {"token": "anon"}}

T = TypeVar("T")


def filesystem(path: str, options: StorageOptions | None = None) -> tuple[Any, str]:
    """The fsspec filesystem of a path or URL, and the path inside it.

    Raises:
        ValueError: the protocol is unknown, or the package that speaks it is not installed.
    """
    protocol = fsspec.core.split_protocol(path)[0] or "file"
    given = dict((options or {}).get(protocol, {}))
    if protocol in OBJECT_STORES:
        given.setdefault("use_listings_cache", False)
    try:
        return fsspec.core.url_to_fs(path, **given)
    except ImportError as error:
        raise ValueError(f"{protocol}://: a package must be installed to read it, found: {error}.") from None


class Folder:
    """A folder on any filesystem fsspec knows, and the few things a store does with one.

    On every filesystem but the local one storage trouble is tried again (`schemas.retries`); what stays is an
    OSError.
    """

    def __init__(self, path: str, options: StorageOptions | None = None) -> None:
        self.fs, root = filesystem(path, options)
        self.root = root.rstrip("/")
        self.path = path

    def at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def child(self, name: str) -> "Folder":
        other = object.__new__(Folder)
        other.fs, other.root, other.path = self.fs, self.at(name), f"{self.path.rstrip('/')}/{name}"
        return other

    def read(self, name: str) -> bytes:
        return self.again(lambda: self.fs.cat_file(self.at(name)), name)

    def write(self, name: str, data: bytes) -> None:
        """Writes a file that nobody reads before all is done; parts of stores are published instead."""
        self.again(lambda: self.fs.makedirs(self.root, exist_ok=True))
        self.again(lambda: self.fs.pipe_file(self.at(name), data), name)

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def again(self, action: Callable[[], T], name: str = "") -> T:
        """The action's value; tried again when the storage is not local and stumbles."""
        if self.is_local:
            return action()
        return with_retries(action, f"{self.path}/{name}", NOT_STORAGE)

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder. Trouble is raised: fsspec's own `exists` takes it for absence."""
        return self._info(self.at(name)) is not None

    def is_folder(self) -> bool:
        info = self._info(self.root)
        return info is not None and info["type"] == "directory"

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when it is not there."""
        info = self._info(self.at(name))
        return None if info is None else int(info.get("size") or 0)

    def _info(self, path: str) -> Mapping[str, Any] | None:
        try:
            return self.again(lambda: self.fs.info(path), path.rpartition("/")[2])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sizes(self) -> dict[str, int]:
        """Size by bare name of every file directly in the folder; {} when it does not exist."""
        return {name: int(info.get("size") or 0) for name, info in self._list("file").items()}

    def folders(self) -> list[str]:
        """Bare names of the folders directly in this one, sorted; [] when it does not exist."""
        return sorted(self._list("directory"))

    def _list(self, kind: str) -> dict[str, Mapping[str, Any]]:
        self.fs.invalidate_cache(self.root)
        try:
            listing = self.again(lambda: self.fs.ls(self.root, detail=True))
        except FileNotFoundError:
            return {}
        named = ((str(info["name"]).rstrip("/"), info) for info in listing)
        # Consoles of object stores leave an empty object named like the folder in it.
        own = self.root.strip("/")
        return {
            path.rsplit("/", 1)[-1]: info
            for path, info in named
            if info["type"] == kind and path.strip("/") != own
        }

    def read_column(self, name: str, column: str) -> pa.ChunkedArray:
        """One column of a Parquet file."""
        return self.read_columns(name, [column]).column(column)

    def read_columns(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Some columns of a Parquet file; the others are not fetched."""

        def read() -> pa.Table:
            with self.fs.open(self.at(name), "rb") as file:
                return pq.ParquetFile(file).read(list(columns))

        return self.again(read, name)

    def read_batches(self, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of a Parquet file that may not fit into memory, a run of row groups at a time."""

        def read(groups: range) -> tuple[int, pa.Table]:
            with self.fs.open(self.at(name), "rb") as file:
                parquet = pq.ParquetFile(file)
                there = [group for group in groups if group < parquet.num_row_groups]
                return parquet.num_row_groups, parquet.read_row_groups(there, list(columns))

        first, last = 0, 1
        while first < last:
            wanted = range(first, first + GROUPS)
            last, table = self.again(partial(read, wanted), name)
            yield table
            first += GROUPS

    def sha256(self, name: str) -> str:
        """Hex digest of a file's bytes, a piece of it in memory at a time."""

        def read() -> str:
            digest = hashlib.sha256()
            with self.fs.open(self.at(name), "rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
            return digest.hexdigest()

        return self.again(read, name)

    def read_table(
        self,
        name: str,
        schema: pa.Schema | None = None,
        columns: Sequence[str] | None = None,
        sha256: str | None = None,
    ) -> pa.Table:
        """A whole Parquet file, or some columns of it.

        Args:
            name: in this folder.
            schema: what it must have.
            columns: what is read; None: all.
            sha256: hex digest that its bytes must have; None: whatever they have.

        Raises:
            ValueError: it is missing, damaged or of another schema; it is named.
            OSError: the storage can not be read.
        """
        try:
            data = self.read(name)
        except FileNotFoundError:
            raise ValueError(
                f"{self.path}/{name}: must exist, not found. Restore it or make the store again."
            ) from None
        if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise ValueError(
                f"{self.path}/{name}: its bytes must have sha256 {sha256[:12]}…, found {found[:12]}…: it is"
                " damaged. Restore it or embed again."
            )
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
            if schema is not None:
                self._check_schema(name, file.schema_arrow, schema)
            table = file.read(None if columns is None else list(columns))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{self.path}/{name}: must be a whole Parquet file, found: {error}. Restore it or embed again."
            ) from None
        return (
            table if schema is None else table.cast(pa.schema([schema.field(n) for n in table.schema.names]))
        )

    def _check_schema(self, name: str, found: pa.Schema, schema: pa.Schema) -> None:
        differing = [f"{f.name}: {f.type}" for f in schema if f.name not in found.names]
        differing += [
            f"{f.name}: must be {f.type}, found {found.field(f.name).type}"
            for f in schema
            if f.name in found.names and found.field(f.name).type != f.type
        ]
        differing += [f"unknown column {name}" for name in found.names if name not in schema.names]
        if differing:
            raise ValueError(f"{self.path}/{name}: schema differs ({'; '.join(differing)}).")


def read_storage_options(path: str | None) -> StorageOptions:
    """fsspec options by protocol from a JSON file; {} for None."""
    if path is None:
        return {}
    try:
        with open(path, "rb") as file:
            options = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--storage-options: must be a JSON file of options by protocol, found: {error}."
        ) from None
    if not isinstance(options, dict) or not all(isinstance(value, dict) for value in options.values()):
        raise ValueError(
            '--storage-options: must look like {"gs": {"token": "anon"}}, one object per protocol.'
        )
    return options
