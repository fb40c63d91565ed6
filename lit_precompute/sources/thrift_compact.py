"""Structs of Thrift's compact protocol, as Parquet writes them, as dicts of field numbers.

Only what footers and page headers need is read, and nothing in the bytes is trusted: every loop takes at least a byte a
turn, and nesting has a limit.
"""

import struct
from collections.abc import Callable
from typing import Any

MOST_NESTED = 16  # Parquet's own go to 6

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT, _UUID = (
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    10,
    11,
    12,
    13,
)
_INTEGERS = (4, 5, 6)  # i16, i32, i64 are written alike


class IncompleteError(ValueError):
    """The bytes end before the struct does."""


def read_struct(data: bytes, place: int = 0) -> tuple[dict[int, Any], int]:
    """The struct that starts at `place`, and where it ends.

    Values are int, bool, float, bytes, list, or dict of a struct inside; fields of no known type end it.

    Raises:
        IncompleteError: the bytes end before.
        ValueError: they are no such struct.
    """
    try:
        return _struct(data, place, 0)
    except (IndexError, struct.error):
        raise IncompleteError("ends in the middle") from None


def _struct(data: bytes, place: int, depth: int) -> tuple[dict[int, Any], int]:
    found: dict[int, Any] = {}
    number = 0
    while (head := data[place]) != _STOP:
        place += 1
        if head >> 4:
            number += head >> 4
        else:
            number, place = _integer(data, place)
        kind = head & 15
        if kind in _INTEGERS:
            found[number], place = _integer(data, place)
        elif kind in (_TRUE, _FALSE):
            found[number] = kind == _TRUE
        else:
            found[number], place = _value(kind, data, place, depth)
    return found, place + 1


def _value(kind: int, data: bytes, place: int, depth: int) -> tuple[Any, int]:
    """A value of any kind, as it stands in a list; a truth value there has a byte of its own."""
    if kind in _INTEGERS:
        return _integer(data, place)
    if (read := _READERS.get(kind)) is None:
        raise ValueError(f"must be of a known type, found {kind}")
    if depth > MOST_NESTED:
        raise ValueError(f"must not be nested more than {MOST_NESTED} deep")
    return read(data, place, depth)


def _integer(data: bytes, place: int) -> tuple[int, int]:
    value, place = _varint(data, place)
    return (value >> 1) ^ -(value & 1), place


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := data[place]) & 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        place += 1
        if shift > 63:
            raise ValueError("must be of 64 bits at most, found a longer number")
    return value | byte << shift, place + 1


def _binary(data: bytes, place: int, depth: int) -> tuple[bytes, int]:
    size, place = _varint(data, place)
    return _bytes(data, place, size)


def _bytes(data: bytes, place: int, size: int) -> tuple[bytes, int]:
    if place + size > len(data):
        raise IncompleteError("ends in the middle")
    return data[place : place + size], place + size


def _list(data: bytes, place: int, depth: int) -> tuple[list[Any], int]:
    size, kind = data[place] >> 4, data[place] & 15
    place += 1
    if size == 15:
        size, place = _varint(data, place)
    values = []
    for _ in range(size):
        value, place = _value(kind, data, place, depth + 1)
        values.append(value)
    return values, place


def _map(data: bytes, place: int, depth: int) -> tuple[dict[Any, Any], int]:
    """Read over: Parquet's structs have none."""
    size, place = _varint(data, place)
    if size:
        kinds = data[place] >> 4, data[place] & 15
        place += 1
        for _ in range(size):
            for kind in kinds:
                _, place = _value(kind, data, place, depth + 1)
    return {}, place


def _byte(data: bytes, place: int, depth: int) -> tuple[int, int]:
    return data[place], place + 1


def _double(data: bytes, place: int, depth: int) -> tuple[float, int]:
    return struct.unpack_from("<d", data, place)[0], place + 8


def _uuid(data: bytes, place: int, depth: int) -> tuple[bytes, int]:
    return _bytes(data, place, 16)


def _nested(data: bytes, place: int, depth: int) -> tuple[dict[int, Any], int]:
    return _struct(data, place, depth + 1)


_READERS: dict[int, Callable[[bytes, int, int], tuple[Any, int]]] = {
    _TRUE: _byte,
    _FALSE: _byte,
    _BYTE: _byte,
    _DOUBLE: _double,
    _BINARY: _binary,
    _LIST: _list,
    _SET: _list,
    _MAP: _map,
    _STRUCT: _nested,
    _UUID: _uuid,
}
