"""What is known of a unit while its records stream past: counts, failures, the text side."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lit_precompute.prepare import Prepared, failure_of
from lit_precompute.records import DamagedInput, Record
from schemas.failures import Duplicate, Failure
from schemas.ids import id_problem

JUDGED_FROM = 1000  # records before the failure rate means anything


class Tally:
    """What is known of a unit while its records stream past."""

    def __init__(self, max_failure_rate: float) -> None:
        self.seen = 0
        self.damage = ""
        self.too_many = ""
        self.pairs: list[dict[str, Any]] = []
        self.captions: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self.duplicates: list[Duplicate] = []
        self._ids: set[str] = set()
        self._max_failure_rate = max_failure_rate

    def accept(self, records: Iterable[Record]) -> Iterator[Record]:
        """Passes records on whose id is valid and new in this unit; stops when failures pass the limit."""
        for record in self._until_damage(records):
            self.seen += 1
            reason = id_problem(record.id)
            if record.problem is not None and record.problem[0] == "id":
                self.failures.append(failure_of(record, *record.problem))
            elif reason is not None:
                self.failures.append(failure_of(record, "id", reason, repr(record.id)[:80]))
            elif record.id in self._ids:
                assert record.id is not None
                self.duplicates.append(Duplicate(record.id, record.position, record.locator))
            else:
                assert record.id is not None
                self._ids.add(record.id)
                yield record
            rate = len(self.failures) / self.seen
            if self.seen >= JUDGED_FROM and rate > self._max_failure_rate:
                self.too_many = (
                    f"{len(self.failures)} of the first {self.seen} records failed ({rate:.0%}); "
                    f"--max-failure-rate allows {self._max_failure_rate:.0%}"
                )
                return

    def _until_damage(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records before the input broke off; what broke is noted, what came before it is kept."""
        try:
            yield from records
        except DamagedInput as damage:
            self.damage = f"{damage.path}: {damage.detail}"

    def images(self, prepared: Iterable[Prepared]) -> Iterator[tuple[Prepared, np.ndarray]]:
        """Notes the text side of every record; passes on those that have pixels."""
        for item in prepared:
            self.pairs.append(pairs_row(item))
            self.captions["captions"] += len(item.record.captions)
            self.captions["records_with_captions"] += bool(item.record.captions)
            self.captions.update(f"left_out_{problem}" for problem in item.record.caption_problems)
            if item.failure is not None:
                self.failures.append(item.failure)
            else:
                assert item.pixels is not None
                pixels, item.pixels = item.pixels, None
                yield item, pixels


def pairs_row(item: Prepared) -> dict[str, Any]:
    """A row of a pairs part."""
    record = item.record
    return {
        "id": record.id,
        "image_sha256": item.sha256 or None,
        "captions": [{"text": c.text, "kind": c.kind, "lang": c.lang} for c in record.captions],
        "labels": list(record.labels),
        "label_names": list(record.label_names),
        "width": item.width,
        "height": item.height,
        "metadata": record.metadata,
    }
