"""The regular members of a tar archive as they stream past, whatever the archive claims.

The standard library's reader takes a broken header in the middle for the end of the archive, and holds extended
headers of any size in memory. This one walks the 512-byte headers itself (the library still parses each), so that
damage is seen, named with its byte offset, and bounded.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from lit_precompute.records import DamagedInput

BLOCK = tarfile.BLOCKSIZE
MAX_HEADER_BYTES = 1 << 20  # of one extended header: a name, a few times over
_CHUNK = 1 << 20
_CUT = (EOFError, gzip.BadGzipFile, zlib.error)  # what a damaged .tar.gz raises


class MissingEndMark(DamagedInput):
    """The archive ends between two members, but not as an archive ends: perhaps more was to come."""


@dataclass
class Member:
    """A regular file of the archive.

    Attributes:
        name: as stored; bytes that are not UTF-8 are lone surrogates. Never a path to open.
        offset: of its header in the (uncompressed) archive.
        size: bytes it claims.
        read: its bytes; call it at most once, before the next member is asked for.
    """

    name: str
    offset: int
    size: int
    read: Callable[[], bytes]


def members(file: IO[bytes] | Any, name: str) -> Iterator[Member]:
    """Yields regular members in order; links, devices, folders and sparse files are passed over.

    Args:
        file: the archive, plain or gzip, read forwards only.
        name: bare name, for errors.

    Raises:
        DamagedInput: the archive is cut off, has a broken header, or lacks its end mark.
    """
    archive = _Archive(file, name)
    extended: dict[str, str] = {}
    while (header := archive.next_header()) is not None:
        offset, info = header
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            extended |= _pax_records(archive.read_header_data(info.size, offset))
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            extended["path"] = _text(archive.read_header_data(info.size, offset).split(b"\0")[0])
        elif info.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
            archive.read_header_data(info.size, offset)
        else:
            member = archive.start(info, offset, extended)
            if member is not None:
                yield member
            archive.finish()
            extended = {}


class _Archive:
    """Where we are in the archive, and how much of the current member is still to come."""

    def __init__(self, file: Any, name: str) -> None:
        self._name = name
        # Small reads of headers come out of a buffer; members' bytes pass through it.
        self._file: Any = io.BufferedReader(file, _CHUNK)
        if self._file.peek(2)[:2] == b"\x1f\x8b":
            self._file = gzip.GzipFile(fileobj=self._file)
        self._offset = 0
        self._left = 0  # of the current member's bytes
        self._padding = 0  # that follows them

    def next_header(self) -> tuple[int, tarfile.TarInfo] | None:
        """The next header with its offset, or None at the end. Archives written one behind another are one."""
        ended = False
        while True:
            offset = self._offset
            block = self._take(BLOCK, offset)
            if len(block) < BLOCK and ended and not any(block):
                return None
            if len(block) == 0:
                raise MissingEndMark(self._name, f"at byte {offset:,}: the archive's end mark is missing")
            if len(block) < BLOCK:
                raise self.damaged(offset, "cut off inside a header")
            if any(block):
                break
            ended = True
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            where = "no member behind an end mark" if ended else "broken header"
            raise self.damaged(offset, f"{where} ({error})") from None
        if info.size < 0:
            raise self.damaged(offset, f"broken header (size {info.size})")
        if info.type == tarfile.GNUTYPE_SPARSE:
            self._skip_sparse_map(block, offset)
        return offset, info

    def read_header_data(self, size: int, offset: int) -> bytes:
        """The bytes of an extended header."""
        if size > MAX_HEADER_BYTES:
            raise self.damaged(offset, f"an extended header of {size:,} bytes")
        self._expect(size)
        return self.read_rest(offset)

    def start(self, info: tarfile.TarInfo, offset: int, extended: dict[str, str]) -> Member | None:
        """Enters a member; None when it is not a regular file."""
        size = info.size
        if "size" in extended:
            try:
                size = int(extended["size"])
            except ValueError:
                size = -1
            if size < 0:
                raise self.damaged(offset, f"broken header (size {extended['size'][:20]!r})")
        holds_data = info.type not in (
            tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE
        )  # fmt: skip
        self._expect(size if holds_data else 0)
        self._member_offset = offset
        is_sparse = info.type == tarfile.GNUTYPE_SPARSE or any(
            key.startswith("GNU.sparse.") for key in extended
        )
        if is_sparse or info.type not in tarfile.REGULAR_TYPES:
            return None
        return Member(extended.get("path", info.name), offset, size, lambda: self.read_rest(offset))

    def finish(self) -> None:
        """Leaves the current member: passes over what was not read of it."""
        while self._left:
            taken = len(self._take_whole(min(self._left, _CHUNK), self._member_offset))
            self._left -= taken
        self._take_whole(self._padding, self._member_offset)
        self._padding = 0

    def read_rest(self, offset: int) -> bytes:
        """All bytes of the current member, and past its padding."""
        pieces = []
        while self._left:  # in pieces, so that a false size costs no more memory than the file has bytes
            pieces.append(self._take_whole(min(self._left, _CHUNK), offset))
            self._left -= len(pieces[-1])
        self._take_whole(self._padding, offset)
        self._padding = 0
        return b"".join(pieces)

    def damaged(self, offset: int, what: str) -> DamagedInput:
        return DamagedInput(self._name, f"at byte {offset:,}: {what}")

    def _expect(self, size: int) -> None:
        self._left = size
        self._padding = -size % BLOCK

    def _skip_sparse_map(self, block: bytes, offset: int) -> None:
        more = block[482]
        while more:
            more = self._take_whole(BLOCK, offset, "a header")[504]

    def _take_whole(self, size: int, offset: int, what: str = "a member") -> bytes:
        data = self._take(size, offset)
        if len(data) < size:
            raise self.damaged(offset, f"cut off inside {what}")
        return data

    def _take(self, size: int, offset: int) -> bytes:
        try:
            data = self._file.read(size)
        except _CUT as error:
            raise self.damaged(offset, f"cut off inside the compressed data ({error})") from None
        self._offset += len(data)
        return data


def _pax_records(data: bytes) -> dict[str, str]:
    """The `length key=value` lines of an extended header; reading stops at the first broken one."""
    records: dict[str, str] = {}
    place = 0
    while place < len(data):
        digits, space, _ = data[place : place + 20].partition(b" ")
        if not space or not digits.isdigit() or not len(digits) < int(digits) <= len(data) - place:
            break
        line = data[place + len(digits) + 1 : place + int(digits)].removesuffix(b"\n")
        key, _, value = line.partition(b"=")
        records[_text(key)] = _text(value)
        place += int(digits)
    return records


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
