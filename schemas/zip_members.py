"""Members of a zip archive, read only after their declared sizes were found plausible."""

import struct
import zipfile
import zlib
from typing import BinaryIO

CHUNK_BYTES = 16 << 20
LOCAL_HEADER = struct.Struct(
    "<4s5H3L2H"
)  # before each member; the last two are lengths of name and extra field

# zlib cannot shrink anything by more than this, so a larger claim is a lie.
MAX_DEFLATE_RATIO = 1032
# A whole archive of weights that unpacks to more than this many times its size is refused: random-looking numbers
# shrink by a few per cent; fresh heads and padding that are all zero add some, never this much of a big file.
MAX_ARCHIVE_RATIO = 64
ALWAYS_ALLOWED_BYTES = 256 << 20


class ZipMembers:
    """The members of a zip archive.

    Attributes:
        names: of all members, in the archive's order.
    """

    def __init__(self, raw: BinaryIO, data: memoryview) -> None:
        """Reads the directory of the archive.

        Args:
            raw: the archive, open for as long as members are read.
            data: all its bytes.

        Raises:
            ValueError: the archive is damaged, encrypted, names a member twice or declares impossible sizes.
        """
        self._data, size = data, len(data)
        try:
            self._archive = zipfile.ZipFile(raw)
        except (zipfile.BadZipFile, RuntimeError, ValueError, OSError, EOFError, OverflowError) as error:
            raise ValueError(f"must be a whole zip archive, found {error}. Download it again.") from error
        infos = [info for info in self._archive.infolist() if not info.is_dir()]
        self.names = [info.filename for info in infos]
        if len(set(self.names)) != len(self.names):
            raise ValueError("members of the archive must have distinct names, found one twice.")
        for info in infos:
            _check_member(info, size)
        total = sum(info.file_size for info in infos)
        if total > max(ALWAYS_ALLOWED_BYTES, MAX_ARCHIVE_RATIO * size):
            raise ValueError(
                f"must unpack to at most {MAX_ARCHIVE_RATIO} times its {size} bytes, found {total} declared."
            )

    def read(self, name: str) -> memoryview:
        """All bytes of a member, checksum verified: a view of the archive where the member is stored as it is.

        Raises:
            ValueError: the member is damaged or absent.
        """
        try:
            info = self._archive.getinfo(name)
            if info.compress_type != zipfile.ZIP_STORED:
                return memoryview(self._archive.read(name))
            with self._archive.open(name) as member:
                while member.read(CHUNK_BYTES):  # to its end, where the checksum is compared
                    pass
            return self._stored(info)
        except KeyError:
            raise ValueError(f"must hold a member {name!r}, found none; the archive is incomplete.") from None
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError) as error:
            raise ValueError(f"member {name!r} is damaged: {error}. Download the file again.") from error

    def _stored(self, info: zipfile.ZipInfo) -> memoryview:
        """The bytes after the member's own header, whose name and extra field may differ from the directory's."""
        lengths = info.header_offset + LOCAL_HEADER.size - 4
        start = info.header_offset + LOCAL_HEADER.size + sum(struct.unpack_from("<HH", self._data, lengths))
        if start + info.file_size > len(self._data):
            raise ValueError(f"must end by byte {len(self._data)}, found {start + info.file_size}")
        return self._data[start : start + info.file_size]


def _check_member(info: zipfile.ZipInfo, size: int) -> None:
    if info.flag_bits & 0x1:
        raise ValueError(f"members must not be encrypted, found {info.filename!r} to be.")
    if info.compress_type == zipfile.ZIP_STORED:
        plausible = info.file_size == info.compress_size
    elif info.compress_type == zipfile.ZIP_DEFLATED:
        plausible = info.file_size <= MAX_DEFLATE_RATIO * (info.compress_size + 1)
    else:
        raise ValueError(f"members must be stored or deflated, found {info.filename!r} packed another way.")
    if not plausible or info.compress_size > size:
        raise ValueError(
            f"member {info.filename!r} declares {info.compress_size} bytes packed and {info.file_size} unpacked, "
            f"which cannot be in a file of {size} bytes. Download it again."
        )
