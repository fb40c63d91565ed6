"""The receipt: proof that one unit is done, with all that the finished store must know of it."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from schemas.failures import Duplicate, Failure
from schemas.manifest import PartEntry

Status = Literal["done", "damaged", "failed", "refused"]


@dataclass(frozen=True)
class Receipt:
    """What became of one unit.

    Attributes:
        unit: its name, such as `g000-00007`.
        run_id: the job it was done for.
        status: `done`; `damaged` (the input broke off, what came before it is kept); `failed` (nothing was
            published, run again); `refused` (the input is not the one the store holds).
        seen: records read; seen = embedded + failures + duplicates.
        embedded: records with vectors.
        captions: captions, records_with_captions, and captions left out by reason.
        failures, duplicates: records without a vector, and records whose id was taken.
        pairs, images: the parts, or None where there was no row to write.
        detail: for a damaged, failed or refused unit, what was found.
    """

    unit: str
    run_id: str
    status: Status
    seen: int = 0
    embedded: int = 0
    captions: dict[str, int] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    pairs: PartEntry | None = None
    images: PartEntry | None = None
    detail: str = ""

    @property
    def published(self) -> bool:
        return self.status in ("done", "damaged")

    def reasons(self) -> Counter[str]:
        return Counter(failure.reason for failure in self.failures)

    def with_images(self, part: PartEntry | None) -> "Receipt":
        return replace(self, images=part)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Receipt":
        """Raises ValueError when the text is not a receipt."""
        try:
            value: dict[str, Any] = json.loads(text)
            value["failures"] = tuple(Failure.from_json(one) for one in value["failures"])
            value["duplicates"] = tuple(Duplicate.from_json(one) for one in value["duplicates"])
            for side in ("pairs", "images"):
                value[side] = PartEntry(**value[side]) if value[side] else None
            return cls(**value)
        except (TypeError, KeyError, AssertionError, ValueError) as error:
            raise ValueError(f"not a receipt: {error}") from None
