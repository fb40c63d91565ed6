"""Captions, labels and metadata out of whatever a column, a JSON field or a text file holds."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_precompute.records import Caption
from lit_precompute.sources.redaction import redact_values

MAX_CAPTION_BYTES = 1 << 20  # a longer "caption" is a file that lost its way
MAX_METADATA_BYTES = 64 << 10
MAX_LABEL = 2**31 - 1


@dataclass
class Texts:
    """The text side of one record while it is being put together."""

    captions: list[Caption] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    label_names: list[str] = field(default_factory=list)
    metadata: str | None = None
    problems: list[str] = field(default_factory=list)

    def add_captions(self, value: Any, kind: str = "caption") -> None:
        """Adds every caption of a value: text, bytes, {text, kind, lang}, a list of these, or null."""
        found = False
        for text, its_kind, lang in _caption_items(value, kind):
            found = True
            self._add_caption(text, its_kind, lang)
        if not found:
            self.note("missing")

    def add_labels(self, value: Any) -> None:
        """Adds class indices (integers) and class names (text) of a value, a list of them, or null.

        A negative index is a common sign of "no label" and adds nothing. An integer that does not fit int32
        names a class rather than numbering it. Bytes that are not UTF-8 are replaced by U+FFFD.
        """
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, float) and item.is_integer():
                item = int(item)  # a column of integers with nulls, as pandas writes it
            if isinstance(item, bytes | str):
                self._add_label_name(item)
            elif isinstance(item, int) and item > MAX_LABEL:
                self.label_names.append(str(item))
            elif isinstance(item, int) and item >= 0:
                self.labels.append(int(item))

    def note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def as_fields(self) -> dict[str, Any]:
        """Keyword arguments of `Record`."""
        return {
            "captions": tuple(self.captions),
            "labels": tuple(self.labels),
            "label_names": tuple(self.label_names),
            "metadata": self.metadata,
            "caption_problems": tuple(self.problems),
        }

    def _add_caption(self, value: Any, kind: str, lang: str | None) -> None:
        if not isinstance(value, str | bytes):
            self.note("missing")
        elif len(value) > MAX_CAPTION_BYTES:
            self.note("too_many_bytes")
        elif (text := as_text(value)) is None:
            self.note("not_utf8")
        elif not text.strip():
            self.note("empty")
        else:
            self.captions.append(Caption(text, kind, lang))

    def _add_label_name(self, value: bytes | str) -> None:
        raw = value.encode("utf-8", "replace") if isinstance(value, str) else value
        if name := raw.decode("utf-8", "replace").strip():
            self.label_names.append(name)


def label_of_text(text: str) -> int | str:
    """A class index where text is digits, else the text, a class name.

    >>> label_of_text(" 3\\n"), label_of_text("cat")
    (3, 'cat')
    """
    digits = text.strip()
    # Longer numbers name a class too, and Python refuses to make numbers of very long ones.
    if digits.isascii() and digits.removeprefix("-").isdigit() and len(digits) < 20:
        return int(digits)
    return digits


def as_text(value: str | bytes) -> str | None:
    """The value as text that UTF-8 can carry, or None."""
    try:
        if isinstance(value, bytes):
            return value.decode()
        value.encode()  # JSON may smuggle in lone surrogates
        return value
    except UnicodeError:
        return None


def caption_kinds(columns: Iterable[str]) -> list[tuple[str, str]]:
    """(column, kind of its captions): a single column holds captions, several are told apart by name."""
    names = list(columns)
    return [(name, "caption" if len(names) == 1 else name) for name in names]


def parse_json_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in UTF-8 text, or None when it is not one.

    NaN and infinities, which some writers emit and JSON does not know, become null.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_json_object(data: bytes) -> tuple[dict[str, Any], str | None]:
    """A JSON object, and its text for `metadata`, in which URLs have lost their user info and query.

    Returns:
        ({}, None) when the bytes are not a JSON object in UTF-8; (object, None) when its text is over 64 KiB.
    """
    constants: list[str] = []
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=constants.append)  # append gives None: null
    except (ValueError, RecursionError):
        return {}, None
    if not isinstance(value, dict):
        return {}, None
    return value, _metadata_text(value, text, bool(constants))


def metadata_of(values: Mapping[str, Any]) -> str | None:
    """Columns kept beside a record, as a JSON object; None when its text is over 64 KiB.

    Bytes become text where they are UTF-8 and null elsewhere, as do NaN and infinities; dates and decimals their
    usual text. URLs lose their user info and query.
    """
    try:
        text = json.dumps(redact_values(_json_value(dict(values))), ensure_ascii=False)
        return text if len(text.encode()) <= MAX_METADATA_BYTES else None
    except (RecursionError, UnicodeError):
        return None


def _metadata_text(value: dict[str, Any], text: str, changed: bool) -> str | None:
    """The text as it is where nothing in it needs changing."""
    try:
        redacted = redact_values(value)
        if changed or redacted != value:
            text = json.dumps(redacted)
    except RecursionError:
        return None
    return text if len(text.encode()) <= MAX_METADATA_BYTES else None


def _json_value(value: Any) -> Any:
    """The value with everything JSON does not know turned into what it does."""
    if isinstance(value, bytes | str):
        return as_text(value if isinstance(value, str) else bytes(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        return {str(_json_value(key)): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    return str(value)


def _caption_items(value: Any, kind: str) -> Iterator[tuple[Any, str, str | None]]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _caption_items(item, kind) if isinstance(item, Mapping) else [(item, kind, None)]
    elif isinstance(value, Mapping):
        yield value.get("text"), _word(value.get("kind")) or kind, _word(value.get("lang"))
    else:
        yield value, kind, None


def _word(value: Any) -> str | None:
    return (as_text(value) or None) if isinstance(value, str | bytes) else None
