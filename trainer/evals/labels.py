"""True classes of stored images, as indices into a list of class names."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

PADDING = -1


def name_index(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Class indices by name; a name given to several classes stands for all of them."""
    found: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(names):
        found[name.strip()] = (*found.get(name.strip(), ()), index)
    return found


def resolve_labels(pairs: pa.Table, index_of: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """Reads each image's classes: integer labels as they are, else string labels by class name.

    Args:
        pairs: n rows with the columns labels and label_names.
        index_of: from `name_index`.

    Returns:
        int32 [n, W], padded with -1; W ≥ 1. A row of padding is an image without a label.

    Raises:
        ValueError: listing label names that are no class's.
    """
    integers = pairs.column("labels").to_pylist()
    names = pairs.column("label_names").to_pylist()
    unknown = {
        name
        for labels, row in zip(integers, names, strict=True)
        if not labels
        for name in row or ()
        if name.strip() not in index_of
    }
    if unknown:
        raise ValueError(
            f"--classes: must name every label of the store; {len(unknown)} unknown in one part: "
            f"{sorted(unknown)[:5]}, classes are {list(index_of)[:5]}…. Names must agree letter by letter."
        )
    return pad_labels(
        [
            list(labels) if labels else [index for name in row or () for index in index_of[name.strip()]]
            for labels, row in zip(integers, names, strict=True)
        ]
    )


def pad_labels(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """int32 [n, W] of ragged rows, padded with -1 to the longest one, W at least 1."""
    width = max([1, *map(len, rows)])
    padded = [[*row, *[PADDING] * (width - len(row))] for row in rows]
    return np.array(padded, dtype=np.int32).reshape(len(rows), width)
