"""A folder on any filesystem fsspec knows, with the options its protocol needs."""

import json
from collections.abc import Mapping
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

StorageOptions = Mapping[str, Mapping[str, Any]]  # fsspec options by protocol: {"gs": {"token": "anon"}}


def filesystem(path: str, options: StorageOptions | None = None) -> tuple[Any, str]:
    """The fsspec filesystem of a path or URL, and the path inside it."""
    protocol = fsspec.core.split_protocol(path)[0] or "file"
    return fsspec.core.url_to_fs(path, **dict((options or {}).get(protocol, {})))


class Folder:
    """A folder on any filesystem fsspec knows, and the few things a store does with one."""

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
        return self.fs.cat_file(self.at(name))

    def exists(self, name: str) -> bool:
        return self.fs.exists(self.at(name))

    def sizes(self) -> dict[str, int]:
        """Size by bare name of every file directly in the folder; {} when it does not exist."""
        self.fs.invalidate_cache(self.root)
        try:
            listing = self.fs.ls(self.root, detail=True)
        except FileNotFoundError:
            return {}
        return {
            str(info["name"]).rstrip("/").rsplit("/", 1)[-1]: int(info.get("size") or 0)
            for info in listing
            if info["type"] == "file"
        }

    def read_column(self, name: str, column: str) -> pa.ChunkedArray:
        """One column of a Parquet file."""
        with self.fs.open(self.at(name), "rb") as file:
            return pq.ParquetFile(file).read([column]).column(column)

    def read_table(self, name: str, schema: pa.Schema | None = None) -> pa.Table:
        """A whole Parquet file. Raises ValueError naming it when it is damaged or of another schema."""
        try:
            with self.fs.open(self.at(name), "rb") as file:
                table = pq.ParquetFile(file).read()
        except FileNotFoundError:
            raise ValueError(
                f"{self.path}/{name}: must exist, not found. Restore it or make the store again."
            ) from None
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{self.path}/{name}: must be a whole Parquet file, found: {error}. Restore it or embed again."
            ) from None
        if schema is not None and not table.schema.equals(schema):
            differing = [f"{f.name}: {f.type}" for f in schema if f.name not in table.schema.names]
            differing += [
                f"{f.name}: must be {f.type}, found {table.schema.field(f.name).type}"
                for f in schema
                if f.name in table.schema.names and table.schema.field(f.name).type != f.type
            ]
            differing += [f"unknown column {name}" for name in table.schema.names if name not in schema.names]
            if differing:
                raise ValueError(f"{self.path}/{name}: schema differs ({'; '.join(differing)}).")
            table = table.cast(schema)
        return table


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
