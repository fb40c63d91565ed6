"""Which of very many keys of 128 bits stand more than once, found in bounded memory."""

import heapq
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

import numpy as np

ENTRY = np.dtype([("key", "<u8"), ("more", "<u8"), ("part", "<u4"), ("row", "<u4")])
BUCKET_BITS = 6  # 64 buckets: 400 million entries need 150 MB at a time
IN_MEMORY = 16 << 10  # bytes of a bucket before it moves to a temporary file


@dataclass(frozen=True)
class Repeats:
    """What is repeated among the entries of a ledger.

    Attributes:
        entries: how many were noted.
        distinct: different keys among them.
        groups: keys that stand more than once.
        largest: the entries (`ENTRY`, as noted) of the keys that stand most often, most often first.
    """

    entries: int
    distinct: int
    groups: int
    largest: list[np.ndarray]


class KeyLedger:
    """Notes keys with the place they were seen at.

    Entries are spread over 64 buckets by the highest bits of their key; small ones stay in memory, large ones go to
    temporary files (24 bytes an entry, under TMPDIR). Equal keys share a bucket, so one is looked at at a time.
    """

    def __init__(self) -> None:
        self._files = ExitStack()
        self._buckets = [
            self._files.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115
            for _ in range(1 << BUCKET_BITS)
        ]

    def add(self, part: int, keys: np.ndarray, more: np.ndarray | int, rows: np.ndarray) -> None:
        """Notes keys seen in one part.

        Args:
            part: number of the part.
            keys: uint64 [n], as good as random in their highest bits.
            more: uint64 [n], a second half of each key where 64 bits might meet by chance; else 0.
            rows: [n], where in the part.
        """
        entries = np.empty(len(keys), ENTRY)
        entries["key"], entries["more"], entries["part"], entries["row"] = keys, more, part, rows
        bucket = entries["key"] >> np.uint64(64 - BUCKET_BITS)
        entries = entries[np.argsort(bucket, kind="stable")]
        ends = np.cumsum(np.bincount(bucket.astype(np.int64), minlength=len(self._buckets)))
        for file, own in zip(self._buckets, np.split(entries, ends[:-1]), strict=True):
            if len(own):
                file.write(own.tobytes())

    def repeated(self) -> Iterator[np.ndarray]:
        """Bucket by bucket, the entries of keys that stand more than once: equal keys together, each as noted."""
        for found, starts, counts in self._sorted():
            yield found[np.repeat(counts > 1, counts)] if len(starts) else found

    def repeats(self, show: int) -> Repeats:
        """Counts; `show` says how many groups are given in full."""
        entries = distinct = groups = 0
        top: list[tuple[int, int, np.ndarray]] = []
        for found, starts, counts in self._sorted():
            entries, distinct = entries + len(found), distinct + len(starts)
            repeated = np.flatnonzero(counts > 1)
            groups += len(repeated)
            for one in repeated[np.argsort(-counts[repeated], kind="stable")][:show].tolist():
                group = found[starts[one] : starts[one] + counts[one]]
                top.append((int(counts[one]), -int(group["key"][0]), group))
            top = heapq.nlargest(show, top, key=lambda item: item[:2])
        return Repeats(entries, distinct, groups, [group for _, _, group in top])

    def _sorted(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Each bucket by key, with the start and length of each run of equal keys."""
        for file in self._buckets:
            file.seek(0)
            found = np.frombuffer(file.read(), ENTRY)
            # lexsort is stable: first noted, first listed.
            found = found[np.lexsort((found["more"], found["key"]))]
            changes = (found["key"][1:] != found["key"][:-1]) | (found["more"][1:] != found["more"][:-1])
            starts = np.flatnonzero(np.append(len(found) > 0, changes))
            yield found, starts, np.diff(np.append(starts, len(found)))

    def __enter__(self) -> "KeyLedger":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.close()
