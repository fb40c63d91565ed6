"""Ids that stand in more than one unit: the first in plan order keeps it."""

from typing import Any

import numpy as np

from schemas.digests import key64
from schemas.manifest import PartEntry
from schemas.storage import Folder


def colliding_rows(pairs: Folder, parts: list[PartEntry]) -> list[dict[str, Any]]:
    """Rows of `EXCLUDED_SCHEMA` for every id that an earlier part holds.

    Ids are compared by 64-bit hash first (8 bytes an id in memory); only the few whose hashes meet are compared
    as texts.

    Args:
        pairs: the folder of the parts.
        parts: in plan order.
    """
    hashes = [_hashes(pairs, part) for part in parts]
    everything = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
    everything.sort()
    meeting = np.unique(everything[1:][everything[1:] == everything[:-1]])
    if not len(meeting):
        return []
    rows: list[dict[str, Any]] = []
    first_holder: dict[str, str] = {}
    for part, own in zip(parts, hashes, strict=True):
        suspects = np.flatnonzero(np.isin(own, meeting))
        if not len(suspects):
            continue
        ids = _ids(pairs, part)
        for row in suspects:
            holder = first_holder.setdefault(ids[row], part.name)
            if holder != part.name:
                rows.append(
                    {
                        "id": ids[row],
                        "part": part.name,
                        "unit": part.unit,
                        "locator": f"{part.name}#{row}",
                        "kept_in": holder,
                    }
                )
    return rows


def _hashes(pairs: Folder, part: PartEntry) -> np.ndarray:
    return np.fromiter((key64(id.encode()) for id in _ids(pairs, part)), np.uint64)


def _ids(pairs: Folder, part: PartEntry) -> list[str]:
    return pairs.read_column(part.name, "id").to_pylist()
