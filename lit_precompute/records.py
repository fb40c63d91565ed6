"""What a source hands on: one record of input, or the news that an input is damaged."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption as written.

    Attributes:
        text: never blank; otherwise untouched, however long or strange.
        kind: "caption", or the name of the column or field it came from where several are read.
        lang: language tag as the dataset gives it, or None.
    """

    text: str
    kind: str = "caption"
    lang: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One image with its texts, still encoded.

    Attributes:
        position: place in the unit, from 0, in reading order.
        locator: where a person finds it: `photos-00003.parquet#17`, `photos-00003.tar#000123.jpg`.
        id: the dataset's own name of it, unchecked; None when it has none that is text.
        image: the encoded image; None when there is none.
        captions: usable captions, in the dataset's order.
        labels: class indices, each 0 to 2³¹ − 1.
        label_names: class names.
        metadata: a JSON object as text, or None.
        caption_problems: why captions were left out, each reason at most once: "missing" (null or absent),
            "empty" (blank), "not_utf8", "too_many_bytes", "io".
        problem: (stage, reason, detail) in the words of `schemas.failures` when the record could not be read.
    """

    position: int
    locator: str
    id: str | None
    image: bytes | None
    captions: tuple[Caption, ...] = ()
    labels: tuple[int, ...] = ()
    label_names: tuple[str, ...] = ()
    metadata: str | None = None
    caption_problems: tuple[str, ...] = ()
    problem: tuple[str, str, str] | None = None


class DamagedInput(Exception):
    """Part of an input can not be read, now or later.

    Attributes:
        path: bare name of the (first) damaged file.
        detail: what was found there, and which other files of the unit are damaged.
        damages: (bare name, detail) of every damaged file.
    """

    def __init__(self, path: str, detail: str, others: Sequence[tuple[str, str]] = ()) -> None:
        self.path = path
        self.damages = ((path, detail), *others)
        told = [detail] + [f"{name}: {found}" for name, found in others[:4]]
        self.detail = "; ".join(told + ([f"and {len(others) - 4} more"] if len(others) > 4 else []))
        super().__init__(f"{path}: {self.detail}")
