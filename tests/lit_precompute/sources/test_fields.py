import json
import math

import pytest

from lit_precompute.records import Caption
from lit_precompute.sources.fields import (
    MAX_CAPTION_BYTES,
    MAX_METADATA_BYTES,
    Texts,
    caption_kinds,
    label_of_text,
    read_json_object,
)


@pytest.mark.parametrize(
    ("value", "captions", "problems"),
    [
        (None, [], ["missing"]),
        ([], [], ["missing"]),
        (7, [], ["missing"]),
        (b"", [], ["empty"]),
        (" \n\t\u3000", [], ["empty"]),
        (b"ca\xfft", [], ["not_utf8"]),
        ("\ud800", [], ["not_utf8"]),
        ("x" * (MAX_CAPTION_BYTES + 1), [], ["too_many_bytes"]),
        ("x" * 24_000, ["x" * 24_000], []),
        (" a\x00 \u202e\ufeff\n", [" a\x00 \u202e\ufeff\n"], []),
        ([b"one", None, b"", "two", b"\xff"], ["one", "two"], ["missing", "empty", "not_utf8"]),
    ],
)
def test_captions(value, captions: list[str], problems: list[str]) -> None:
    texts = Texts()
    texts.add_captions(value)
    assert [caption.text for caption in texts.captions] == captions
    assert texts.problems == problems


def test_captions_keep_kind_and_language() -> None:
    texts = Texts()
    texts.add_captions(
        [{"text": b"Hund", "lang": b"de"}, {"text": "a dog", "kind": "title", "lang": None}], "alt"
    )
    assert texts.captions == [Caption("Hund", "alt", "de"), Caption("a dog", "title", None)]
    assert caption_kinds(["text"]) == [("text", "caption")]
    assert caption_kinds(["title", "tags"]) == [("title", "title"), ("tags", "tags")]


@pytest.mark.parametrize(
    ("value", "labels", "label_names"),
    [
        (3, [3], []),
        (b"cat", [], ["cat"]),
        ([1, 2], [1, 2], []),
        (["a", "b"], [], ["a", "b"]),
        (None, [], []),
        (-1, [], []),
        (2.0, [2], []),
        (math.nan, [], []),
        (2**40, [], [str(2**40)]),
        (b"\xffx", [], ["\ufffdx"]),
        ("", [], []),
        ({"a": 1}, [], []),
    ],
)
def test_labels(value, labels: list[int], label_names: list[str]) -> None:
    texts = Texts()
    texts.add_labels(value)
    assert (texts.labels, texts.label_names) == (labels, label_names)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"3", b"{", b'{"a": "\xff"}', b"[" * 100_000, b'{"a":' * 100_000]
)
def test_what_is_no_json_object_gives_nothing(data: bytes) -> None:
    assert read_json_object(data) == ({}, None)


def test_json_text_is_kept_when_it_is_json_and_short() -> None:
    assert read_json_object(b'{"a":  1}') == ({"a": 1}, '{"a":  1}')
    fields, text = read_json_object(b'{"score": NaN, "b": -Infinity}')
    assert fields == {"score": None, "b": None}
    assert text is not None
    assert json.loads(text) == fields
    assert read_json_object(json.dumps({"a": "x" * MAX_METADATA_BYTES}).encode())[1] is None


def test_urls_in_metadata_lose_their_secrets() -> None:
    given = {
        "url": "https://me:pw@h/a.jpg?sig=1#x", "n": [1, {"s": "s3://k:s@b/k?v"}], "t": "a://b c?d", "https://u@h": 1
    }  # fmt: skip
    value, metadata = read_json_object(json.dumps(given).encode())
    assert value == given
    assert json.loads(metadata or "") == {
        "url": "https://h/a.jpg", "n": [1, {"s": "s3://b/k"}], "t": "a://b c", "https://h": 1
    }  # fmt: skip
    untouched = b'{ "n":1,  "url": "https://h/a.jpg" }'
    assert read_json_object(untouched)[1] == untouched.decode()


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("7", 7),
        (" -3\n", -3),
        ("1\x1d", 1),
        ("cat", "cat"),
        ("٣", "٣"),
        ("9" * 19, 10**19 - 1),
        ("9" * 5000, "9" * 5000),
        ("-", "-"),
    ],
)
def test_labels_of_text(text: str, label: int | str) -> None:
    assert label_of_text(text) == label
