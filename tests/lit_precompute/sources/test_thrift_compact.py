import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_precompute.sources.thrift_compact import MOST_NESTED, IncompleteError, read_struct

# By the protocol's specification: 1: i32 5, 3: binary "ab", 4: list<i32> [1, -1], 20: true, 21: struct {1: i64 -300}.
WRITTEN = bytes([0x15, 10, 0x28, 2, *b"ab", 0x19, 0x25, 2, 1, 0x01, 40, 0x1C, 0x16, 0xD7, 0x04, 0, 0])
READ = {1: 5, 3: b"ab", 4: [1, -1], 20: True, 21: {1: -300}}


def test_values_by_field_number() -> None:
    assert read_struct(b"??" + WRITTEN + b"more", 2) == (READ, 2 + len(WRITTEN))


def test_lists_maps_and_numbers() -> None:
    long_list = bytes([0x19, 0xF3, 16, *range(16), 0])
    assert read_struct(long_list)[0] == {1: list(range(16))}
    truths = bytes([0x19, 0x21, 1, 2, 0])
    assert read_struct(truths) == ({1: [1, 2]}, 5)
    double_and_map = bytes([0x17, *bytes(6), 0xF0, 0x3F, 0x1B, 1, 0x85, 1, *b"x", 6, 0x15, 2, 0])
    assert read_struct(double_and_map) == ({1: 1.0, 2: {}, 3: 1}, len(double_and_map))


@pytest.mark.parametrize("size", range(len(WRITTEN)))
def test_every_beginning_is_incomplete(size: int) -> None:
    with pytest.raises(IncompleteError):
        read_struct(WRITTEN[:size])


@pytest.mark.parametrize("kind", [1, 3, 7, 8, 9, 11, 12, 13])
def test_a_list_of_more_than_there_is_ends_with_the_bytes(kind: int) -> None:
    many = bytes([0x19, 0xF0 | kind, *[0xFF] * 8, 0x7F])
    with pytest.raises(IncompleteError):
        read_struct(many + bytes(40))


def test_what_can_not_be_is_refused() -> None:
    for nested in (bytes([0x1C]) * 100, bytes([0x19]) * 100):
        with pytest.raises(ValueError, match=f"nested more than {MOST_NESTED} deep"):
            read_struct(nested)
    with pytest.raises(ValueError, match="known type, found 14"):
        read_struct(bytes([0x1E, 0]))
    with pytest.raises(ValueError, match="64 bits"):
        read_struct(bytes([0x15, *[0xFF] * 11, 0]))


@settings(derandomize=True, max_examples=300)
@given(st.binary(max_size=60))
def test_random_bytes_are_a_struct_or_refused(data: bytes) -> None:
    try:
        _, end = read_struct(data)
    except ValueError:
        return
    assert 0 < end <= len(data)
