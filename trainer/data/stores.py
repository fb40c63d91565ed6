"""The stores a run trains on, opened and held against each other: one space, no content twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.manifest import TowerInfo
from schemas.storage import StorageOptions
from schemas.store import ImagesFolder, open_store
from trainer.data.spool_part import Source


@dataclass(frozen=True)
class OpenedStore:
    """One store of a mixture.

    Attributes:
        source: where it is.
        images: the folder of the wanted tower.
    """

    source: Source
    images: ImagesFolder


def open_stores(paths: Sequence[str], tower_id: str | None, options: StorageOptions) -> list[OpenedStore]:
    """Open the images folder of one tower in every store.

    Args:
        paths: of the stores.
        tower_id: of the folder; None: the only one of the first store. In a further store the folder of that
            name, or else the only one of the same space.
        options: fsspec options by protocol.

    Raises:
        ValueError: no such folder, folders of different spaces, or the same content twice.
    """
    opened: list[OpenedStore] = []
    for path in paths:
        images = _images(path, tower_id, options, opened[0].images if opened else None)
        opened.append(OpenedStore(Source(path, images.manifest.tower_id, options), images))
    first = opened[0]
    for number, other in enumerate(opened[1:], start=1):
        _refuse_another_space(first, other)
        for earlier in opened[:number]:
            if earlier.images.manifest.content_id == other.images.manifest.content_id:
                raise ValueError(
                    f"store: each must be of its own content, found the same in {earlier.source.store} and"
                    f" {other.source.store}. Give it once; --store-weights says how much it counts."
                )
    return opened


def _images(
    path: str, tower_id: str | None, options: StorageOptions, first: ImagesFolder | None
) -> ImagesFolder:
    store = open_store(path, options)
    known = store.tower_ids()
    if tower_id in known:
        return store.images(str(tower_id))
    if first is not None:
        folders = [store.images(name) for name in known]
        same = [one for one in folders if one.manifest.space_id == first.manifest.space_id]
        if len(same) == 1 or len(folders) == 1:
            return (same or folders)[0]
    if tower_id is not None:
        return store.images(tower_id)  # which says what there is
    if len(known) != 1:
        raise ValueError(
            f"tower_id: must be given unless the store has one tower, found {', '.join(known) or 'none'} in {path}."
            " Name one with --tower-id."
        )
    return store.images(known[0])


def _refuse_another_space(first: OpenedStore, other: OpenedStore) -> None:
    ours, theirs = first.images.manifest, other.images.manifest
    if ours.space_id == theirs.space_id:
        return
    differing = "; ".join(_differences(ours.tower, theirs.tower))
    raise ValueError(
        f"store: all must hold embeddings of one space, found {differing} ({first.source.store} and"
        f" {other.source.store}, towers {ours.tower_id} and {theirs.tower_id}). Embed both with the same tower,"
        " weights and preprocessing, or name the folder with --tower-id."
    )


def _differences(ours: TowerInfo, theirs: TowerInfo) -> list[str]:
    """Each field that makes two spaces differ, with both values."""
    left, right = _flat(ours.to_json()), _flat(theirs.to_json())
    return [
        f"{name}: {left.get(name)!r} and {right.get(name)!r}"
        for name in sorted(left.keys() | right.keys())
        if name != "tower" and left.get(name) != right.get(name)
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, one in value.items():
        flat |= _flat(one, f"{prefix}{name}.") if isinstance(one, Mapping) else {prefix + name: one}
    return flat
