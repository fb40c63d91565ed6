"""Members of a zip archive, read only after their declared sizes were found plausible."""

import io
import zipfile
import zlib

# zlib cannot shrink anything by more than this, so a larger claim is a lie.
MAX_DEFLATE_RATIO = 1032
# A whole archive of weights that unpacks to more than this many times its size is refused: random-looking numbers
# shrink by a few per cent; fresh heads and padding that are all zero add some, never this much of a big file.
MAX_ARCHIVE_RATIO = 64
ALWAYS_ALLOWED_BYTES = 256 << 20


class ZipMembers:
    """The members of a zip archive in memory.

    Attributes:
        names: of all members, in the archive's order.
    """

    def __init__(self, raw: io.BytesIO) -> None:
        """Reads the directory of the archive.

        Raises:
            ValueError: the archive is damaged, encrypted, names a member twice or declares impossible sizes.
        """
        size = raw.getbuffer().nbytes
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

    def read(self, name: str) -> bytes:
        """All bytes of a member, checksum verified. Raises ValueError when it is damaged or absent."""
        try:
            return self._archive.read(name)
        except KeyError:
            raise ValueError(f"must hold a member {name!r}, found none; the archive is incomplete.") from None
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError) as error:
            raise ValueError(f"member {name!r} is damaged: {error}. Download the file again.") from error


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
