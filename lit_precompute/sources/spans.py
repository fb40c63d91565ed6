"""Cutting countable inputs into units of about equally many records."""

from collections.abc import Iterable

from lit_precompute.units import Slice


def split_evenly(file: Slice, records: int, most: int) -> list[tuple[Slice, int]]:
    """Runs of at most `most` records of a file, each with its number of records; an empty file is one empty run.

    >>> [(part.first, part.last, size) for part, size in split_evenly(Slice("a", 1, ""), 5, 2)]
    [(0, 2, 2), (2, 4, 2), (4, 5, 1)]
    """
    starts = range(0, records, most) or [0]
    ends = [min(start + most, records) for start in starts]
    return [
        (Slice(file.path, file.size, file.version, start, end), end - start)
        for start, end in zip(starts, ends, strict=True)
    ]


def pack(spans: Iterable[tuple[Slice, int]], most: int) -> list[tuple[Slice, ...]]:
    """Neighbouring runs, each with its number of records, put together while there are at most `most`."""
    units: list[list[Slice]] = []
    held = 0
    for part, size in spans:
        if not units or held + size > most:
            units.append([])
            held = 0
        units[-1].append(part)
        held += size
    return [tuple(unit) for unit in units]
