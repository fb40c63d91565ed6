"""Which images of a store an evaluation looks at."""

import dataclasses
import fnmatch
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from schemas.digests import caption_key, image_keys
from schemas.store import JoinedPart, Store
from trainer.data.holdout import held_out
from trainer.evals.vectors import unit_vectors

Split = Literal["all", "train", "heldout"]


class JoinedParts(Protocol):
    """What is needed of a `schemas.store.ImagesFolder`."""

    def iter_joined(self, columns: Sequence[str] = ()) -> Iterator[JoinedPart]: ...


@dataclass(frozen=True)
class Selection:
    """The rule by which images are chosen.

    Attributes:
        split: all images, those a run trained on, or those it held out.
        holdout_fraction, holdout_by: the run's own rule ("caption" or "image"); unused for all.
        ids: a shell-style pattern (`*`, `?`, `[...]`, case counts) that ids must match, or None.
        where: fields of the metadata, and the values of which each must have one.
    """

    split: Split = "all"
    holdout_fraction: float = 0.0
    holdout_by: str = "caption"
    ids: str | None = None
    where: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.split == "heldout" and self.holdout_fraction == 0:
            raise ValueError(
                "--split heldout: the run must have held images out, found a hold-out fraction of 0. "
                "Train with a hold-out, or evaluate another store with --split all."
            )


@dataclass(frozen=True)
class SelectedPart:
    """The chosen images of one part.

    Attributes:
        ids: n of them.
        image_keys: uint64 [n]; equal for images of equal bytes.
        embeddings: [n, D], view 0; as stored, or float32 unit rows.
        pairs: n rows; row i belongs to ids[i].
        part: file name of the embeddings part.
        image_sha256: uint8 [n, 32].
    """

    ids: list[str]
    image_keys: np.ndarray
    embeddings: np.ndarray
    pairs: pa.Table
    part: str
    image_sha256: np.ndarray


def selected_parts(
    images: JoinedParts, selection: Selection, columns: Sequence[str] = ()
) -> Iterator[SelectedPart]:
    """Streams the chosen images part by part, embeddings as unit rows; parts without any are left out.

    Args:
        images: an opened tower folder of a store.
        selection: the rule.
        columns: pairs columns wanted beside `id` and `captions`.
    """
    for part in stored_embeddings(images, selection, columns):
        unit = unit_vectors(part.embeddings, "stored image embeddings")
        yield dataclasses.replace(part, embeddings=unit)


def stored_embeddings(
    images: JoinedParts, selection: Selection, columns: Sequence[str] = ()
) -> Iterator[SelectedPart]:
    """As `selected_parts`, with embeddings as they are stored."""
    wanted = ("captions", *columns, *(("metadata",) if selection.where else ()))
    for part in images.iter_joined(columns=tuple(dict.fromkeys(wanted))):
        rows = np.flatnonzero(
            _matches(part, selection.ids) & _meets(part, selection.where) & _in_split(part, selection)
        )
        if len(rows):
            yield SelectedPart(
                ids=part.ids.take(pa.array(rows)).to_pylist(),
                image_keys=image_keys(part.image_sha256[rows]),
                embeddings=part.embeddings[rows, 0],
                pairs=part.pairs.take(pa.array(rows)),
                part=part.part,
                image_sha256=part.image_sha256[rows],
            )


class WrittenCaption(NamedTuple):
    """A caption that is not blank: its text, its language or None, and its place among the image's captions."""

    text: str
    lang: str | None
    place: int


def written_captions(pairs: pa.Table) -> list[list[WrittenCaption]]:
    """Per image its captions that are not blank."""
    return [
        [
            WrittenCaption(caption["text"], caption["lang"], place)
            for place, caption in enumerate(row or ())
            if (caption["text"] or "").strip()
        ]
        for row in pairs.column("captions").to_pylist()
    ]


def usable_captions(pairs: pa.Table) -> list[list[str]]:
    """Per image the texts of its captions that are not blank."""
    return [[caption.text for caption in row] for row in written_captions(pairs)]


def parse_where(conditions: Sequence[str]) -> dict[str, frozenset[str]]:
    """Conditions on the metadata, each FIELD=VALUE; of values of one field any will do.

    >>> parse_where(["split=test", "split=val"]) == {"split": frozenset({"test", "val"})}
    True
    """
    found: dict[str, frozenset[str]] = {}
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not name or not equals:
            raise ValueError(f"--where: must be FIELD=VALUE, such as split=test, found {condition!r}.")
        found[name] = found.get(name, frozenset()) | {value}
    return found


def _matches(part: JoinedPart, pattern: str | None) -> np.ndarray:
    """bool [n]: whose id fits the pattern."""
    if pattern is None:
        return np.ones(len(part.ids), dtype=bool)
    fits = re.compile(fnmatch.translate(pattern)).match
    return np.array([fits(id) is not None for id in part.ids.to_pylist()], dtype=bool)


def _meets(part: JoinedPart, where: Mapping[str, frozenset[str]]) -> np.ndarray:
    """bool [n]: whose metadata meets all conditions; an image without the field does not."""
    if not where:
        return np.ones(len(part.ids), dtype=bool)
    records = [json.loads(row) if row else {} for row in part.pairs.column("metadata").to_pylist()]
    return np.array(
        [all(name in one and str(one[name]) in values for name, values in where.items()) for one in records],
        dtype=bool,
    )


def _in_split(part: JoinedPart, selection: Selection) -> np.ndarray:
    """bool [n]: who is in the split, by the same key as in training.

    An image without a usable caption was never trained on; held out by caption it has no key to be decided by,
    and is in neither split.
    """
    if selection.split == "all":
        return np.ones(len(part.ids), dtype=bool)
    captions = usable_captions(part.pairs)
    has_caption = np.array([bool(texts) for texts in captions], dtype=bool)
    if selection.holdout_by == "image":
        keys = image_keys(part.image_sha256)
    else:
        keys = np.array([caption_key(texts[0]) if texts else 0 for texts in captions], dtype=np.uint64)
    out = held_out(keys, selection.holdout_fraction)
    if selection.split == "train":
        return has_caption & ~out
    return out & (has_caption | (selection.holdout_by == "image"))


def selection_of(
    split: Split, ids: str | None, run_config: dict[str, Any], where: Sequence[str] = ()
) -> Selection:
    """The selection that flags and a run's resolved configuration ask for."""
    data = run_config["data"]
    rule = float(data["holdout_fraction"]), str(data["holdout_by"])
    return Selection(split, *rule, ids, parse_where(where))


def only_tower(store: Store) -> str:
    """The id of a store's one finished image tower. Raises ValueError where there are none or several."""
    known = store.tower_ids()
    if len(known) != 1:
        raise ValueError(
            f"--tower-id: must be given unless the store has one finished tower; {store.path} has "
            f"{', '.join(known) or 'none'}."
        )
    return known[0]
