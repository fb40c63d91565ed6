"""Which files the user's patterns mean, in an order that is the same every time."""

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any
from urllib.parse import urlsplit

from braceexpand import braceexpand
from fsspec.implementations.local import LocalFileSystem

from lit_precompute.sources.opening import FINAL, with_retries
from lit_precompute.units import Slice, printable
from schemas.storage import StorageOptions, filesystem

MAX_EXPANDED = 10_000_000  # paths a brace pattern may mean
LIST_FROM = 8  # paths asked for in one folder above which listing it is cheaper than asking for each
_VERSIONS = ("generation", "versionId", "VersionId", "etag", "ETag", "md5Hash", "content-md5")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
_AT_IS_NO_USER = {"abfs", "abfss", "wasb", "wasbs", "adl"}  # container@account


@dataclass(frozen=True)
class Listing:
    """The files found.

    Attributes:
        files: each once, whole, sorted by path.
        root: the deepest folder above all that the patterns could mean; it depends on the patterns alone.
        walked: folders all of whose files of the wanted kinds are in `files`.
    """

    files: tuple[Slice, ...]
    root: str
    walked: tuple[str, ...] = ()


def list_inputs(
    patterns: Iterable[str], suffixes: Sequence[str], options: StorageOptions | None = None
) -> Listing:
    """Finds the files that patterns mean.

    A pattern is a file, a folder, a glob (`*`, `?`, `[ab]`, `**`), a brace pattern (`{00..99}`, `{a,b}`), or several
    joined by `::`. Of a folder the files of the wanted kinds count, nested ones too, but neither hidden ones nor
    links to other folders. What exists under the very name of a pattern is meant literally. User info and query
    strings are cut off before anything is opened.

    Args:
        patterns: what the user wrote.
        suffixes: lower-case file name endings that count inside a folder, such as (".tar", ".tgz").
        options: fsspec options by protocol.

    Raises:
        ValueError: patterns that match nothing, all of them, and what was looked for.
        OSError: the storage can not be listed.
    """
    files: dict[str, Slice] = {}
    bases: list[str] = []
    walked: list[str] = []
    empty: list[str] = []
    for pattern in (
        redact_url(piece.strip()) for text in patterns for piece in text.split("::") if piece.strip()
    ):
        finder = _Finder(pattern, tuple(suffixes), options)
        with_retries(finder.find, printable(pattern), (*FINAL, ValueError, ImportError))
        files |= finder.files
        bases += finder.bases
        walked += finder.walked
        empty += finder.missing
    if empty or not files:
        raise ValueError(_nothing_found(empty, suffixes))
    ordered = tuple(files[path] for path in sorted(files))
    return Listing(ordered, common_folder(bases), tuple(walked))


def list_folder(path: str, options: StorageOptions | None = None) -> list[Slice]:
    """Every file directly in a folder."""
    fs, folder = filesystem(path, options)
    infos = with_retries(lambda: fs.ls(folder, detail=True), printable(path))
    return [_slice(fs, info) for info in infos if _kind(info) == "file"]


def redact_url(url: str) -> str:
    """`scheme://host/path` of a URL; a path is returned as it is.

    >>> redact_url("https://me:secret@host/a.tar?token=1")
    'https://host/a.tar'
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    host, slash, path = rest.partition("/")
    if scheme not in _AT_IS_NO_USER:
        host = host.rpartition("@")[2]
    if scheme in ("http", "https"):  # elsewhere ? is a glob character
        parts = urlsplit(f"{scheme}://{host}{slash}{path}")
        return f"{scheme}://{host.partition('?')[0]}{parts.path}"
    return f"{scheme}://{host}{slash}{path}"


class _Finder:
    """The files of one pattern.

    Attributes:
        files: by path.
        bases: for each piece of the pattern, the folder above all it can mean.
        walked: folders that were walked.
        missing: pieces that mean nothing.
    """

    def __init__(self, pattern: str, suffixes: tuple[str, ...], options: StorageOptions | None) -> None:
        self.pattern = pattern
        self.suffixes = suffixes
        self.fs, self.path = filesystem(pattern, options)

    def find(self) -> None:
        self.files: dict[str, Slice] = {}
        self.bases: list[str] = []
        self.walked: list[str] = []
        self.missing: list[str] = []
        literal = any(mark in self.path for mark in "*?[{") and self.fs.exists(self.path)
        expanded = [self.path] if literal else self._expand()
        for path in expanded if not literal else ():
            if _has_magic(path):
                self._find_glob(path)
        for info in self._infos(path for path in expanded if literal or not _has_magic(path)):
            self._take(info)

    def _expand(self) -> list[str]:
        if "{" not in self.path:
            return [self.path]
        if _expansions(self.path) > MAX_EXPANDED:
            raise ValueError(
                f"--input {printable(self.pattern)}: must mean at most {MAX_EXPANDED:,} paths. Use * instead."
            )
        try:
            return list(braceexpand(self.path))
        except ValueError as error:
            raise ValueError(
                f"--input {printable(self.pattern)}: must have balanced braces, found: {error}."
            ) from None

    def _find_glob(self, path: str) -> None:
        try:
            found = self.fs.glob(path, detail=True)
        except ValueError as error:
            raise ValueError(f"--input {printable(path)}: must be a pattern, found: {error}.") from None
        self.bases.append(_address(self.fs, _fixed_folder(path)))
        if not found:
            self.missing.append(path)
        for info in found.values():
            self._take(info, is_base=False)

    def _infos(self, paths: Iterable[str]) -> Iterator[Mapping[str, Any]]:
        by_folder: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            by_folder[path.rpartition("/")[0]].append(path)
        for folder, wanted in by_folder.items():
            known = self._known(folder) if len(wanted) >= LIST_FROM else None
            for path in wanted:
                info = self._info(path) if known is None else known.get(path)
                if info is None:
                    self.missing.append(path)
                else:
                    yield info

    def _known(self, folder: str) -> dict[str, Mapping[str, Any]]:
        try:
            return {info["name"].rstrip("/"): info for info in self.fs.ls(folder, detail=True)}
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def _info(self, path: str) -> Mapping[str, Any] | None:
        try:
            return self.fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _take(self, info: Mapping[str, Any], is_base: bool = True) -> None:
        """Adds a file, or the files in a folder."""
        if _kind(info) == "file":
            self._add(info)
            if is_base:
                self.bases.append(_address(self.fs, info["name"]).rpartition("/")[0])
        if _kind(info) != "directory":  # a broken link, a socket
            return
        folder = info["name"].rstrip("/")
        address = _address(self.fs, folder)
        within = [
            found for found in self.fs.find(folder, detail=True).values() if self._wanted(found, folder)
        ]
        for found in within:
            self._add(found)
        self.walked.append(address)
        if is_base:
            self.bases.append(address)
            if not within:
                self.missing.append(folder)

    def _wanted(self, info: Mapping[str, Any], folder: str) -> bool:
        inside = str(info["name"])[len(folder) :]
        hidden = any(part.startswith(".") for part in inside.split("/"))
        return _kind(info) == "file" and not hidden and inside.lower().endswith(self.suffixes)

    def _add(self, info: Mapping[str, Any]) -> None:
        found = _slice(self.fs, info)
        self.files[found.path] = found


def _slice(fs: Any, info: Mapping[str, Any]) -> Slice:
    size = info.get("size")
    return Slice(_address(fs, info["name"]), -1 if size is None else int(size), _version(fs, info))


def _kind(info: Mapping[str, Any]) -> str:
    """ "file", "directory" or something else; a local link is what it leads to."""
    if info.get("islink") and info["type"] not in ("file", "directory"):
        path = info["name"]
        return "file" if os.path.isfile(path) else "directory" if os.path.isdir(path) else "broken link"
    return info["type"]


def _version(fs: Any, info: Mapping[str, Any]) -> str:
    """What changes when the content does."""
    if isinstance(fs, LocalFileSystem):
        return str(os.stat(info["name"]).st_mtime_ns)
    for key in _VERSIONS:
        if info.get(key):
            return f"{key.lower()}:{str(info[key]).strip(chr(34))}"
    for key in _TIMES:
        if value := info.get(key):
            moment = value.timestamp() if isinstance(value, datetime) else value
            return f"time:{moment:.6f}" if isinstance(moment, int | float) else f"time:{moment}"
    return ""


def _address(fs: Any, path: str) -> str:
    """What opens the path from anywhere."""
    return path if isinstance(fs, LocalFileSystem) else redact_url(fs.unstrip_protocol(path)).rstrip("/")


def _expansions(pattern: str) -> int:
    """How many paths the number ranges of a brace pattern mean; known before any is made."""
    spans = re.findall(r"\{(-?\d{1,18})\.\.(-?\d{1,18})", pattern)
    return math.prod(abs(int(first) - int(last)) + 1 for first, last in spans)


def _has_magic(path: str) -> bool:
    return any(mark in path for mark in "*?[")


def _fixed_folder(path: str) -> str:
    """The folders of a glob before its first magic character."""
    fixed = path[: min(path.index(mark) for mark in "*?[" if mark in path)]
    return fixed.rpartition("/")[0]


def common_folder(folders: Sequence[str]) -> str:
    parts = [folder.split("/") for folder in folders]
    # The first and the last in sorted order differ as early as any two do.
    pairs = zip(min(parts), max(parts), strict=False) if parts else ()
    return "/".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _nothing_found(missing: Sequence[str], suffixes: Sequence[str]) -> str:
    shown = ", ".join(printable(path) for path in missing[:5]) or "the patterns"
    more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
    return (
        f"--input: must name files that exist, found nothing for {shown}{more} "
        f"(in a folder, files ending in {' '.join(suffixes)} count). Check the path, the pattern and --format."
    )
