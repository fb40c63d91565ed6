"""Which classes are candidates, where a data set has some of a larger list's: ImageNet-A and -R have 200 of 1,000."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SEEN = "seen"  # the word for: those that have images in the store


def read_subset(path: str, index_of: Mapping[str, tuple[int, ...]], n_classes: int) -> tuple[int, ...]:
    """Class indices of a JSON list of indices, names or WordNet ids, in the file's order.

    Args:
        path: the file.
        index_of: class indices by name (`trainer.evals.labels.name_index`).
        n_classes: of the whole list.

    Raises:
        ValueError: naming entries that are no class, stand for several, or occur twice.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--class-subset: must be {SEEN}, or a readable JSON file, found: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"--class-subset: {path} must hold a list of classes that is not empty.")
    found = [_one(entry, index_of, n_classes) for entry in entries]
    wrong = [repr(entry) for entry, index in zip(entries, found, strict=True) if index is None]
    known = [index for index in found if index is not None]
    twice = sorted({index for index in known if known.count(index) > 1})
    if wrong or twice:
        raise ValueError(
            f"--class-subset: {path} must name classes of --classes, each once; no class or several: "
            f"{', '.join(wrong[:5]) or 'none'}; twice: {twice[:5] or 'none'}."
        )
    return tuple(known)


def in_list_order(labels: Sequence[int]) -> tuple[int, ...]:
    """The classes that occur, by class index."""
    return tuple(sorted(set(labels)))


def _one(entry: Any, index_of: Mapping[str, tuple[int, ...]], n_classes: int) -> int | None:
    if isinstance(entry, int) and not isinstance(entry, bool):
        return entry if 0 <= entry < n_classes else None
    classes = index_of.get(entry.strip(), ()) if isinstance(entry, str) else ()
    return classes[0] if len(classes) == 1 else None
