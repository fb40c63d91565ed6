"""True classes of stored images, as indices into a list of class names."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

PADDING = -1
_NUMBER_AT_END = re.compile(r"(\d+)(?:\.\w+)?$")  # of an id such as ILSVRC2012_val_00000293.JPEG


def name_index(names: Sequence[str], wnids: Sequence[str | None] = ()) -> dict[str, tuple[int, ...]]:
    """Class indices by name, and by WordNet id where there is one; a name of several classes stands for all."""
    found: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(names):
        found[name.strip()] = (*found.get(name.strip(), ()), index)
    for index, wnid in enumerate(wnids):
        if wnid is not None:
            found.setdefault(wnid, (index,))
    return found


def resolve_labels(pairs: pa.Table, index_of: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """Reads each image's classes: integer labels as they are, else string labels by class name.

    Args:
        pairs: n rows with the columns labels and label_names.
        index_of: from `name_index`. A label name that is a decimal number, as the folders of ImageNet-v2 are, and no
            class's name, is a class index.

    Returns:
        int32 [n, W], padded with -1; W ≥ 1. A row of padding is an image without a label.

    Raises:
        ValueError: listing label names that are no class's.
    """
    integers = pairs.column("labels").to_pylist()
    names = pairs.column("label_names").to_pylist()
    return _resolve(
        [labels if labels else list(row or ()) for labels, row in zip(integers, names, strict=True)],
        index_of,
        "one part",
    )


def pad_labels(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """int32 [n, W] of ragged rows, padded with -1 to the longest one, W at least 1."""
    width = max([1, *map(len, rows)])
    padded = [[*row, *[PADDING] * (width - len(row))] for row in rows]
    return np.array(padded, dtype=np.int32).reshape(len(rows), width)


def map_labels(labels: np.ndarray, candidates: Sequence[int], n_classes: int) -> np.ndarray:
    """Class indices to places in a list of candidates; classes that are none of them become padding.

    Args:
        labels: int [n, W], padded with -1.
        candidates: class indices, each once.
        n_classes: of the whole list.

    Raises:
        ValueError: a label is no class at all.
    """
    out_of_range = np.unique(labels[(labels < PADDING) | (labels >= n_classes)])
    if len(out_of_range):
        raise ValueError(
            f"labels must be class indices 0..{n_classes - 1}; found {out_of_range[:5].tolist()}. "
            "Give the class list that the store's labels index."
        )
    place = np.full(n_classes + 1, PADDING, dtype=np.int32)  # the last one is for padding itself
    place[list(candidates)] = np.arange(len(candidates))
    return place[labels]


@dataclass(frozen=True)
class LabelFile:
    """Labels given beside the store: by id, or by the number an id ends in.

    Attributes:
        source: name of the file, for error messages.
        by_id: labels of each id, or None.
        by_number: labels of the images 1, 2, 3, …, or None.
    """

    source: str
    by_id: Mapping[str, Any] | None
    by_number: Sequence[Any] | None

    def resolve(self, ids: Sequence[str], index_of: Mapping[str, tuple[int, ...]]) -> np.ndarray:
        """Classes of the images of these ids, int32 [n, W] padded with -1; an image the file leaves out has none.

        Raises:
            ValueError: an id without a number, or a label that is no class's name.
        """
        return _resolve([_as_list(self._of(id)) for id in ids], index_of, self.source)

    def _of(self, id: str) -> Any:
        if self.by_id is not None:
            return self.by_id.get(id)
        number = _NUMBER_AT_END.search(id)
        assert self.by_number is not None
        if number is None or not 1 <= int(number[1]) <= len(self.by_number):
            raise ValueError(
                f"--labels: {self.source} is a list, so that ids must end in a number from 1 to "
                f"{len(self.by_number):,}, found {id!r}. Give an object of labels by id instead."
            )
        return self.by_number[int(number[1]) - 1]


def read_label_file(path: str) -> LabelFile:
    """Reads labels from JSON: an object of labels by id, or a list by number, as ImageNet-ReaL is published.

    A label is a class index or name; a list of them is an image of several classes, an empty one an image without.

    Raises:
        ValueError: the file is neither.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--labels: {path} must be a readable JSON file, found: {error}") from None
    if not isinstance(found, dict | list) or not found:
        raise ValueError(f"--labels: {path} must hold an object or a list that is not empty.")
    name = Path(path).name
    return LabelFile(name, found, None) if isinstance(found, dict) else LabelFile(name, None, found)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _resolve(
    rows: Sequence[Sequence[Any]], index_of: Mapping[str, tuple[int, ...]], source: str
) -> np.ndarray:
    unknown = {str(label) for row in rows for label in row if _classes(label, index_of) is None}
    if unknown and not index_of:
        raise ValueError(
            f"--classes: must be given where labels are names, as {sorted(unknown)[:5]} in {source} are, found none. "
            "Give a JSON list of the classes' names."
        )
    if unknown:
        raise ValueError(
            f"--classes: must name every label; {len(unknown)} unknown in {source}: "
            f"{sorted(unknown)[:5]}, classes are {list(index_of)[:5]}…. Names must agree letter by letter."
        )
    return pad_labels([[index for label in row for index in _classes(label, index_of) or ()] for row in rows])


def _classes(label: Any, index_of: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Class indices a label stands for; None if it stands for none."""
    if isinstance(label, int) and not isinstance(label, bool):
        return (label,)
    if not isinstance(label, str):
        return None
    name = label.strip()
    if name in index_of:
        return index_of[name]
    return (int(name),) if name.isascii() and name.isdecimal() else None
