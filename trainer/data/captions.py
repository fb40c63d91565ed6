"""Which captions of a store are trained on, and which of them an image shows at a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from schemas.digests import sha256_json
from trainer.data.columns import Columns, ColumnWriter, built_at_once, open_or_build
from trainer.data.sampler import Sampler
from trainer.data.spool import digest_key

_CHUNK = 1 << 18

Draw = Literal["caption", "kind-per-example", "kind-per-batch", "joint"]
UNTOLD = "none"  # how a caption without a kind or a language is asked for


@dataclass(frozen=True)
class Captions:
    """The m chosen captions of N slots, by image and then by group.

    With `--draw caption` there is one group, of all chosen kinds; else G groups, one for each kind.

    Attributes:
        groups: G names.
        offsets: int64 [N * G + 1]; those of slot n in group g are from element n * G + g to the one after it.
        index: int64 [m], which of the store's M captions each is; None: all of them, in their order.
        images_with: how many images have one, by group.
        digest: names the choice, and the content it was made from.
    """

    groups: tuple[str, ...]
    offsets: np.ndarray
    index: np.ndarray | None
    images_with: Mapping[str, int]
    digest: str

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def stored(self, chosen: np.ndarray) -> np.ndarray:
        """Which of the store's captions the chosen ones are: int64 of any shape -> the same shape."""
        return chosen if self.index is None else np.take(self.index, chosen)

    def counts(self, slots: np.ndarray) -> np.ndarray:
        """How many captions slots int64 [n] have in each group: int64 [n, G]."""
        return np.diff(self._bounds(slots), axis=1)

    def draw(
        self, sampler: Sampler, step: int, drawn: np.ndarray, slots: np.ndarray, how: Draw
    ) -> np.ndarray:
        """The captions that images show at a step.

        An image without a caption of the kind that is asked for shows one of the next kind it has, in the order
        of the groups and round to the first.

        Args:
            sampler: of the store.
            step: from 0.
            drawn: int64 [B], rows of the sampler.
            slots: int64 [B], where they are in the store; each has a chosen caption.
            how: "caption": any of them, each as likely. "kind-per-example": a kind, each that the image has as
                likely, and then any of that kind. "kind-per-batch": the same kind for the whole batch. "joint":
                one of each kind.

        Returns:
            int64 [B], or [B, G] for "joint": places among the m chosen captions.
        """
        bounds = self._bounds(slots)
        if len(self.groups) == 1 and how != "joint":
            firsts = bounds[:, 0]
            return firsts + sampler.caption_choice(step, drawn, bounds[:, 1] - firsts, turn=0)
        counts = np.diff(bounds, axis=1)
        if how == "joint":
            wanted = np.broadcast_to(np.arange(len(self.groups)), counts.shape)
        elif how == "kind-per-batch":
            wanted = np.full((len(slots), 1), sampler.batch_choice(step, len(self.groups)))
        elif how == "kind-per-example":
            wanted = _nth_present(counts, sampler.kind_choice(step, drawn, (counts > 0).sum(axis=1)))[:, None]
        else:
            wanted = np.zeros((len(slots), 1), np.int64)
        groups = _present_from(counts, wanted)  # [B, 1 or G]
        places = np.arange(len(slots))[:, None]
        lengths, firsts = counts[places, groups], bounds[places, groups]
        columns = [
            firsts[:, k] + sampler.caption_choice(step, drawn, lengths[:, k], turn=k)
            for k in range(groups.shape[1])
        ]
        return np.stack(columns, axis=1) if how == "joint" else columns[0]

    def _bounds(self, slots: np.ndarray) -> np.ndarray:
        """int64 [n, G + 1], where each group of a slot begins, and where the last ends."""
        return np.take(self.offsets, slots[:, None] * len(self.groups) + np.arange(len(self.groups) + 1))


def select_captions(
    images: Columns, kinds: Sequence[str], langs: Sequence[str], how: Draw, root: Path
) -> Captions:
    """Choose captions by kind and language.

    Args:
        images: as `spool_images` gives them.
        kinds: wanted kinds, in the order of the groups; none: all, in one group.
        langs: wanted languages; "en" also means "en-GB", "none" captions without one; none at all: every language.
        how: "caption" puts all kinds in one group.
        root: where spools lie.
    """
    if not kinds and not langs:
        everything = sha256_json(digest_key(images))
        return Captions(("",), images["caption_offsets"], None, {"": images.facts["images"]}, everything)
    groups = ("",) if how == "caption" or not kinds else tuple(kinds)
    digest = sha256_json([*digest_key(images), list(kinds), list(langs), list(groups)])
    group_of_kind = np.array([_group(name, kinds, groups) for name in images.facts["kinds"]], np.int64)
    wanted_lang = np.array([speaks(name, langs) for name in images.facts["langs"]], bool)
    num_slots = len(images["image_key"])

    def build(writer: ColumnWriter) -> dict[str, Any]:
        writer.append("offsets", np.zeros(1, np.int64))
        end, images_with = 0, np.zeros(len(groups), np.int64)
        for start in range(0, num_slots, _CHUNK):
            offsets = images["caption_offsets"][start : min(start + _CHUNK, num_slots) + 1]
            captions = slice(int(offsets[0]), int(offsets[-1]))
            group = group_of_kind[images["caption_kind"][captions]]
            group = np.where(wanted_lang[images["caption_lang"][captions]], group, -1)
            owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
            chosen = np.flatnonzero(group >= 0)
            place = owner[chosen] * len(groups) + group[chosen]
            counts = np.bincount(place, minlength=(len(offsets) - 1) * len(groups))
            writer.append("index", captions.start + chosen[np.argsort(place, kind="stable")])
            writer.append("offsets", end + np.cumsum(counts, dtype=np.int64))
            end += len(chosen)
            images_with += (counts.reshape(-1, len(groups)) > 0).sum(axis=0)
        return {"images_with": dict(zip(groups, images_with.tolist(), strict=True))}

    need = 8 * (num_slots * len(groups) + 1 + images.facts["captions"])
    found = open_or_build(root, f"captions-{digest[:16]}", built_at_once(build), need)
    return Captions(groups, found["offsets"], found["index"], found.facts["images_with"], digest)


def _group(name: str, kinds: Sequence[str], groups: Sequence[str]) -> int:
    """The group of the captions of a kind; -1: of none."""
    if kinds and (name or UNTOLD) not in kinds:
        return -1
    return 0 if len(groups) == 1 else list(kinds).index(name or UNTOLD)


def speaks(name: str, langs: Sequence[str]) -> bool:
    """Whether a language is among those wanted: "en-GB" is where "en" is, "none" stands for no language at all."""
    tag = (name or UNTOLD).lower().replace("_", "-")
    return not langs or any(tag == lang.lower() or tag.startswith(lang.lower() + "-") for lang in langs)


def _present_from(counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The first group from `wanted` [B, k] on, and round, of which counts [B, G] has one: int64 [B, k]."""
    order = (wanted[:, :, None] + np.arange(counts.shape[1])) % counts.shape[1]  # [B, k, G]
    present = np.take_along_axis(counts[:, None, :] > 0, order, axis=2)
    return np.take_along_axis(order, present.argmax(axis=2)[:, :, None], axis=2)[:, :, 0]


def _nth_present(counts: np.ndarray, nth: np.ndarray) -> np.ndarray:
    """The group that comes n-th, from 0, of those of which counts [B, G] has one: int64 [B]."""
    return (np.cumsum(counts > 0, axis=1) == nth[:, None] + 1).argmax(axis=1)
