"""Digests depend on content alone."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from schemas.digests import caption_key, image_keys, key64, sha256_json, table_digest
from schemas.pairs import PAIRS_SCHEMA

ROWS = [
    {
        "id": "a",
        "image_sha256": bytes(32),
        "captions": [
            {"text": "one", "kind": "caption", "lang": None},
            {"text": "zwei", "kind": "title", "lang": "de"},
        ],
        "labels": [3],
        "label_names": [],
        "width": 5,
        "height": 4,
        "metadata": None,
    },
    {
        "id": "鍵/é",
        "image_sha256": None,
        "captions": [],
        "labels": [],
        "label_names": ["cat", "dog"],
        "width": None,
        "height": None,
        "metadata": '{"x": 1}',
    },
    {
        "id": "c",
        "image_sha256": bytes(range(32)),
        "captions": [{"text": "", "kind": None, "lang": None}],
        "labels": [1, 2],
        "label_names": [""],
        "width": 0,
        "height": 1,
        "metadata": "",
    },
]


def test_json_digest_is_of_the_canonical_text() -> None:
    assert (
        sha256_json({"b": [1, "é"], "a": None})
        == hashlib.sha256('{"a":null,"b":[1,"é"]}'.encode()).hexdigest()
    )
    with pytest.raises(ValueError, match="Out of range"):
        sha256_json(float("nan"))


def test_keys_are_the_first_eight_bytes_little_endian() -> None:
    digest = hashlib.sha256(b"x").digest()
    assert key64(b"x") == int.from_bytes(digest[:8], "little")
    rows = np.frombuffer(digest + bytes(32), np.uint8).reshape(2, 32)
    assert image_keys(rows).tolist() == [key64(b"x"), 0]


def test_caption_key_is_blind_to_case_form_and_spacing() -> None:
    assert caption_key("  A\tDog ") == caption_key("a dog") == key64(b"a dog")
    assert caption_key("Café") == caption_key("cafe\u0301")
    assert caption_key("a dog") != caption_key("a dot")


def test_table_digest_ignores_chunks_slices_and_what_lies_under_nulls() -> None:
    whole = pa.Table.from_pylist(ROWS, schema=PAIRS_SCHEMA)
    pieces = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 2)])
    inside = pa.concat_tables([pa.Table.from_pylist(ROWS[2:], schema=PAIRS_SCHEMA), whole]).slice(1, 3)
    assert table_digest(pieces) == table_digest(whole) == table_digest(inside)


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        (0, "id", "b"),
        (0, "image_sha256", None),
        (1, "image_sha256", bytes(32)),
        (0, "captions", ROWS[0]["captions"][::-1]),
        (2, "captions", []),
        (2, "labels", [2, 1]),
        (1, "label_names", ["catdog"]),
        (1, "label_names", ["cat", "dog", ""]),
        (2, "width", None),
        (2, "metadata", None),
    ],
)
def test_table_digest_sees_every_change(row: int, column: str, value: object) -> None:
    changed = [dict(one) for one in ROWS]
    changed[row][column] = value
    before = table_digest(pa.Table.from_pylist(ROWS, schema=PAIRS_SCHEMA))
    assert table_digest(pa.Table.from_pylist(changed, schema=PAIRS_SCHEMA)) != before


def test_table_digest_sees_row_order_and_moved_text() -> None:
    table = pa.table({"a": ["xy", "z"], "b": ["1", "2"]})
    assert table_digest(table) != table_digest(table.take([1, 0]))
    assert table_digest(table) != table_digest(pa.table({"a": ["x", "yz"], "b": ["1", "2"]}))


def test_table_digest_is_stable() -> None:
    """A changed rule would make every store of the past look damaged."""
    table = pa.Table.from_pylist(ROWS, schema=PAIRS_SCHEMA)
    assert table_digest(table) == "f340deb66e279fd9e728f74859baa90761aef702738b828348d736f5a156c778"
