"""CRC-32C, the checksum in TFRecord files: a library's where there is one, else a table's."""

from collections.abc import Callable
from functools import cache


@cache
def crc32c_function() -> Callable[[bytes], int]:
    """`google_crc32c.value` when that package is installed (GB/s), else our own (some MB/s)."""
    try:
        import google_crc32c
    except ImportError:
        return crc32c
    return google_crc32c.value


def masked(checksum: int) -> int:
    """A checksum as TFRecord stores it: rotated by 15 bits, plus a constant."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The checksum of some bytes.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    table, checksum = _table(), 0xFFFFFFFF
    for byte in data:
        checksum = table[(checksum ^ byte) & 0xFF] ^ checksum >> 8
    return checksum ^ 0xFFFFFFFF


@cache
def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table
