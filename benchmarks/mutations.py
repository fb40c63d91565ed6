"""Broken bytes made from whole ones, the same for the same seed."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Literal

# Where sizes and counts are read, these are the ones that go wrong.
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        2**63,
        1e308,
        "",
        " ",
        "\ud800",
        "\0",
        "../x",
        "file:/etc/hostname",
        "a::b",
        "0.png",
    ),
    *(
        "http://u:p@127.0.0.1/x",
        [],
        {},
        [[]],
        ["a", None],
        {"text": 1},
        {"bytes": "x"},
        "x" * 5000,
        [0] * 999,
    ),
)
MAX_BYTES = 64 << 10


def mutated(drawn: random.Random, whole: Sequence[bytes]) -> bytes:
    """One of the whole inputs after one to eight changes; one in sixteen is random bytes from the start.

    Args:
        drawn: decides everything.
        whole: valid inputs.
    """
    if drawn.random() < 1 / 16:
        return drawn.randbytes(drawn.randrange(2048))
    data = drawn.choice(whole)
    for _ in range(drawn.choice((1, 1, 1, 2, 3, 8))):
        data = drawn.choice(CHANGES)(drawn, data, whole)[:MAX_BYTES]
    return data


def _flip(drawn: random.Random, data: bytes, whole: Sequence[bytes]) -> bytes:
    if not data:
        return data
    place = drawn.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << drawn.randrange(8)]) + data[place + 1 :]


def _overwrite(drawn: random.Random, data: bytes, whole: Sequence[bytes]) -> bytes:
    place, new = _place(drawn, data), drawn.randbytes(drawn.randrange(1, 32))
    return data[:place] + new + data[place + len(new) :]


def _number(drawn: random.Random, data: bytes, whole: Sequence[bytes]) -> bytes:
    size = drawn.choice((1, 2, 4, 8))
    order: Literal["little", "big"] = drawn.choice(("little", "big"))
    value = drawn.choice(NUMBERS) & ((1 << 8 * size) - 1)
    place = _place(drawn, data)
    return data[:place] + value.to_bytes(size, order) + data[place + size :]


def _cut(drawn: random.Random, data: bytes, whole: Sequence[bytes]) -> bytes:
    return data[: _place(drawn, data)]


def _leave_out(drawn: random.Random, data: bytes, whole: Sequence[bytes]) -> bytes:
    place = _place(drawn, data)
    return data[:place] + data[place + drawn.randrange(1, 64) :]


def _insert(drawn: random.Random, data: bytes, whole: Sequence[bytes]) -> bytes:
    place = _place(drawn, data)
    return data[:place] + drawn.randbytes(drawn.randrange(1, 64)) + data[place:]


def _repeat(drawn: random.Random, data: bytes, whole: Sequence[bytes]) -> bytes:
    place, size = _place(drawn, data), drawn.randrange(1, 512)
    return data[:place] + data[place : place + size] * drawn.randrange(2, 9) + data[place + size :]


def _splice(drawn: random.Random, data: bytes, whole: Sequence[bytes]) -> bytes:
    other = drawn.choice(whole)
    return data[: _place(drawn, data)] + other[_place(drawn, other) :]


def _json_value(drawn: random.Random, data: bytes, whole: Sequence[bytes]) -> bytes:
    """Another value somewhere in JSON, or in one of its lines; bytes that are none stay as they are."""
    lines = data.split(b"\n")
    number = drawn.randrange(len(lines))
    try:
        value = json.loads(lines[number])
        lines[number] = json.dumps(_replaced(drawn, value)).encode()
    except (ValueError, RecursionError):
        return data
    return b"\n".join(lines)


def _replaced(drawn: random.Random, value: Any) -> Any:
    if not value or not isinstance(value, dict | list) or drawn.random() < 0.1:
        return drawn.choice(VALUES)
    copy: Any = value.copy()
    key = drawn.choice(list(value)) if isinstance(value, dict) else drawn.randrange(len(value))
    copy[key] = _replaced(drawn, value[key])
    return copy


def _place(drawn: random.Random, data: bytes) -> int:
    """Anywhere; more often near the ends, where headers and footers are."""
    near = min(len(data), 64)
    return drawn.choice(
        (drawn.randrange(len(data) + 1), drawn.randrange(near + 1), len(data) - drawn.randrange(near + 1))
    )


Change = Callable[[random.Random, bytes, Sequence[bytes]], bytes]
CHANGES: tuple[Change, ...] = (
    _flip,
    _overwrite,
    _number,
    _cut,
    _leave_out,
    _insert,
    _repeat,
    _splice,
    _json_value,
)
