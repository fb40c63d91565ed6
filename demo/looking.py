"""Looks things up with a tuned text tower: which pictures answer a text, which captions answer a picture."""

from dataclasses import dataclass

import numpy as np

from demo.journey import HOLDOUT, HOLDOUT_BY, Places
from schemas.store import open_store
from trainer.evals.embed_text import EmbedTexts, text_embedder
from trainer.evals.selection import Selection, Split, selected_parts, usable_captions
from trainer.run_directory import load_run


@dataclass(frozen=True)
class Found:
    """One answer.

    Attributes:
        row: of the picture or caption in `Side`.
        rank: its place, 1 for the best.
        score: cosine.
    """

    row: int
    rank: int
    score: float


@dataclass(frozen=True)
class Side:
    """N pictures with their first captions, in one order.

    Attributes:
        ids, captions: N of each.
        image_embeddings, text_embeddings: float32 [N, D], unit rows.
    """

    ids: list[str]
    captions: list[str]
    image_embeddings: np.ndarray
    text_embeddings: np.ndarray

    def pictures_for(self, text: np.ndarray, at_most: int) -> list[Found]:
        """The pictures nearest to a text embedding float32 [D]."""
        return nearest(self.image_embeddings @ text, at_most)

    def captions_for(self, row: int, at_most: int) -> list[Found]:
        """The captions nearest to a picture."""
        return nearest(self.text_embeddings @ self.image_embeddings[row], at_most)

    def place(self, scores: np.ndarray, row: int) -> Found:
        """Where one row stands among all; equal scores stand before it, as in the reports."""
        return Found(row, 1 + int((np.delete(scores, row) >= scores[row]).sum()), float(scores[row]))


def nearest(scores: np.ndarray, at_most: int) -> list[Found]:
    """The best of float32 [N] scores, best first.

    >>> nearest(np.array([0.1, 0.5, 0.3]), 2)
    [Found(row=1, rank=1, score=0.5), Found(row=2, rank=2, score=0.3)]
    """
    best = np.argsort(-scores, kind="stable")[:at_most]
    return [Found(int(row), rank, float(scores[row])) for rank, row in enumerate(best, 1)]


def open_embedder(places: Places) -> EmbedTexts:
    """Texts to unit embeddings by the run's text tower."""
    tower = load_run(places.run).text_tower
    return text_embedder(tower, tower.max_text_length)


def open_side(places: Places, split: Split, embed_texts: EmbedTexts) -> Side:
    """The pictures of one side of the hold-out ("train", "heldout" or "all"), those with a caption."""
    store = open_store(places.store)
    images = store.images(store.tower_ids()[0])
    ids: list[str] = []
    captions: list[str] = []
    embeddings: list[np.ndarray] = []
    for part in selected_parts(images, Selection(split, HOLDOUT, HOLDOUT_BY)):
        texts = usable_captions(part.pairs)
        kept = [row for row, found in enumerate(texts) if found]
        ids += [part.ids[row] for row in kept]
        captions += [texts[row][0] for row in kept]
        embeddings.append(part.embeddings[kept])
    return Side(ids, captions, np.concatenate(embeddings), embed_texts(captions))


def draw(total: int, wanted: int, seed: int) -> list[int]:
    """Distinct rows for a gallery, drawn at random: the reader is to see the usual, not the best."""
    return sorted(np.random.default_rng(seed).permutation(total)[:wanted].tolist())
