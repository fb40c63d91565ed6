"""Why a record has no vector, or no place at all: the words and the tables."""

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

STAGES = ("read", "id", "decode", "embed")

REASONS = {
    "missing": "the record has no image bytes (null column, no image member)",
    "empty": "the image has zero bytes",
    "truncated": "the image ends before its pixels do",
    "not_an_image": "the bytes are not an image of a known format",
    "corrupt": "the image is of a known format and broken inside",
    "too_many_pixels": "the header declares more pixels than the limit; never decoded",
    "too_many_bytes": "the encoded image is larger than the limit; never decoded",
    "not_finite": "the tower gave NaN or infinity",
    "overflow": "a component does not fit float16; use --dtype float32",
    "zero_vector": "the tower gave a vector of norm 0, which has no direction",
    "missing_id": "the record has no id",
    "empty_id": "the id is empty or blank",
    "bad_id": "the id has control characters or more than 1,024 bytes",
    "not_utf8": "the id's bytes are not UTF-8",
    "refused": "a listing names an image where its rows may not; never opened",
    "malformed": "the row of a listing can not be read as one",
    "io": "reading failed after retries",
    "timeout": "decoding took longer than the limit",
    "crash": "decoding ended the process twice",
}

TRANSIENT = ("io", "timeout", "crash")


@dataclass(frozen=True)
class Failure:
    """One record that got no vector.

    Attributes:
        id: the record's id, or None when it has none that is valid.
        position: its place in the unit, from 0.
        locator: where a person finds it, such as `photos-00003.tar#000123`.
        stage: one of `STAGES`.
        reason: one of `REASONS`.
        detail: what was found, at most 200 characters.
    """

    id: str | None
    position: int
    locator: str
    stage: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        assert self.stage in STAGES, self.stage
        assert self.reason in REASONS, self.reason
        object.__setattr__(self, "detail", self.detail[:200])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Failure":
        return cls(**value)


@dataclass(frozen=True)
class Duplicate:
    """A later record whose id an earlier one of the same unit already holds."""

    id: str
    position: int
    locator: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Duplicate":
        return cls(**value)


FAILURES_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("id", pa.string()),
        ("position", pa.int64()),
        ("locator", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

# `part` is the pairs part that holds the excluded row, null when the row never entered a part (its id was taken
# inside its own unit); `kept_in` is the pairs part of the row that keeps the id.
EXCLUDED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("part", pa.string()),
        ("unit", pa.string()),
        ("locator", pa.string()),
        ("kept_in", pa.string()),
    ]
)
