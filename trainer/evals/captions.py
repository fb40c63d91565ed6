"""The two sides of retrieval: chosen images that have captions, and those captions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.digests import caption_key
from trainer.evals.embed_text import EmbedTexts
from trainer.evals.prompts import make_prompts
from trainer.evals.selection import SelectedPart, written_captions
from trainer.evals.zero_shot import average_prompts

_CHUNK = 4096  # captions whose prompts are held at once: 4096 × 80 templates × D = 1 GiB at D = 768
UNKNOWN = "none"  # what a caption without a language is called


@dataclass(frozen=True)
class CaptionedImages:
    """N images with at least one caption each, M captions in all.

    Attributes:
        embeddings: float32 [N, D], unit rows.
        image_keys: uint64 [N].
        texts: M captions as written.
        langs: M languages, "none" where unknown.
        caption_image: int64 [M], the row of each caption's image.
        n_without_caption: chosen images left out for want of a caption.
    """

    embeddings: np.ndarray
    image_keys: np.ndarray
    texts: list[str]
    langs: list[str]
    caption_image: np.ndarray
    n_without_caption: int

    @property
    def n_shared_captions(self) -> int:
        """Captions whose wording another image has too: no tower can tell those images apart by it."""
        keys = np.array([caption_key(text) for text in self.texts], dtype=np.uint64)
        owned = np.unique(np.stack([keys, self.caption_image.astype(np.uint64)]), axis=1)[0]
        wordings, owners = np.unique(owned, return_counts=True)
        return int(np.isin(keys, wordings[owners > 1]).sum())

    @property
    def n_repeated_images(self) -> int:
        """Images whose bytes another image has too."""
        _, place, counts = np.unique(self.image_keys, return_inverse=True, return_counts=True)
        return int((counts[place] > 1).sum())


def gather_captioned(
    parts: Iterable[SelectedPart], languages: Sequence[str] = (), first: int | None = None
) -> CaptionedImages:
    """Lays the chosen images that have a usable caption side by side.

    Args:
        parts: of a store.
        languages: only captions of these count; all without any.
        first: only so many captions of each image, the first ones; all if None.

    Raises:
        ValueError: if there is none.
    """
    embeddings, image_keys, texts, langs, counts, without = [], [], [], [], [], 0
    for part in parts:
        captions = [
            [one for one in row if not languages or (one.lang or UNKNOWN) in languages][:first]
            for row in written_captions(part.pairs)
        ]
        kept = np.flatnonzero([bool(found) for found in captions])
        without += len(captions) - len(kept)
        embeddings.append(part.embeddings[kept])
        image_keys.append(part.image_keys[kept])
        texts += [one.text for found in captions for one in found]
        langs += [one.lang or UNKNOWN for found in captions for one in found]
        counts += [len(captions[row]) for row in kept]
    if not counts:
        raise ValueError(
            f"retrieval must have at least one image with a caption; found {without} chosen images, none with one. "
            "Check --ids, --where, --split and --languages, or embed with the right caption column."
        )
    return CaptionedImages(
        embeddings=np.concatenate(embeddings),
        image_keys=np.concatenate(image_keys),
        texts=texts,
        langs=langs,
        caption_image=np.repeat(np.arange(len(counts)), counts),
        n_without_caption=without,
    )


def embed_captions(embed_texts: EmbedTexts, captions: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """Caption embeddings float32 [M, D], unit rows: the renormalised mean over the templates.

    A caption that occurs several times is embedded once.
    """
    place = {text: row for row, text in enumerate(dict.fromkeys(captions))}
    distinct = list(place)
    means = []
    for start in range(0, len(distinct), _CHUNK):
        filled = make_prompts(distinct[start : start + _CHUNK], templates)
        means.append(average_prompts(embed_texts(filled.texts), filled.class_index, filled.n_classes))
    return np.concatenate(means)[[place[caption] for caption in captions]]
