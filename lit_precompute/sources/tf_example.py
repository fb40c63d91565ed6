"""The features of a serialized `tf.train.Example`, parsed without TensorFlow."""

import struct
from collections.abc import Collection, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
Values = list[bytes] | list[int] | list[float]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VALUES = 1 << 20  # in a feature


def parse_example(data: bytes, wanted: Collection[str]) -> dict[str, Values]:
    """The wanted features that an example has; a feature without values is [].

    Example.features = 1; Features.feature = 1, a map of key = 1 and value = 2; Feature is one of bytes_list = 1,
    float_list = 2, int64_list = 3, each with its values = 1.

    Raises:
        ValueError: the bytes are no such message.
    """
    found: dict[str, Values] = {}
    names = {name.encode(): name for name in wanted}
    for features in _messages(memoryview(data), 1):
        for entry in _messages(features, 1):
            key, value = b"", memoryview(b"")
            for number, kind, part in _fields(entry):
                if number == 1 and kind == _BYTES:
                    key = bytes(part)
                elif number == 2 and kind == _BYTES:
                    value = part
            if key in names:
                found[names[key]] = _values(value)
    return found


def feature_names(data: bytes) -> list[str]:
    """Names of all features. Raises ValueError as `parse_example`."""
    names = []
    for features in _messages(memoryview(data), 1):
        for entry in _messages(features, 1):
            names += [bytes(key).decode("utf-8", "replace") for key in _messages(entry, 1)]
    return names


def _values(feature: memoryview) -> Values:
    for number, kind, part in _fields(feature):
        if kind != _BYTES:
            continue
        if number == 1:
            return _bounded(bytes(value) for value in _messages(part, 1))
        if number == 2:
            return _bounded(_floats(part))
        if number == 3:
            return _bounded(_integers(part))
    return []


def _bounded(values: Iterator[T]) -> list[T]:
    """All values; a byte of a message may cost dozens in memory, so there may not be many."""
    found = list(islice(values, _MAX_VALUES + 1))
    if len(found) > _MAX_VALUES:
        raise ValueError(f"more than {_MAX_VALUES:,} values in a feature")
    return found


def _floats(values: memoryview) -> Iterator[float]:
    for number, kind, part in _fields(values):
        if number == 1 and kind in (_BYTES, _FIXED32):
            if len(part) % 4:
                raise ValueError(f"a list of floats in {len(part)} bytes")
            yield from (value for (value,) in struct.iter_unpack("<f", part))


def _integers(values: memoryview) -> Iterator[int]:
    for number, kind, part in _fields(values):
        if number == 1 and kind in (_BYTES, _VARINT):
            place = 0
            while place < len(part):
                value, place = _varint(part, place)
                yield value - (1 << 64) if value >> 63 else value


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, kind, part in _fields(data):
        if number == wanted and kind == _BYTES:
            yield part


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(number, wire type, bytes) of each field."""
    place = 0
    while place < len(data):
        tag, start = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            end = _varint(data, start)[1]
        elif kind == _BYTES:
            size, start = _varint(data, start)
            end = start + size
        elif kind in (_FIXED32, _FIXED64):
            end = start + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError(f"wire type {kind}")
        if end > len(data) or not number:
            raise ValueError(f"a field of {end - start} bytes where {len(data) - start} are left")
        yield number, kind, data[start:end]
        place = end


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
    raise ValueError("a number that does not end")
