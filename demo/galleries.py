"""The retrieval galleries: queries drawn at random among the unseen, with what was found for them."""

from collections.abc import Callable, Sequence

import numpy as np

from demo.looking import Found, Side, draw
from demo.page import Answer, Gallery, Picture, Query

Pictures = Callable[[str, str], Picture]  # an id and a name to the picture

QUERIES = 10
AT_MOST = 5


def pictures_by_caption(side: Side, pictures: Pictures, seed: int) -> Gallery:
    """Captions of unseen concepts, and the unseen pictures nearest to each."""
    queries = []
    for row in draw(len(side.ids), QUERIES, seed):
        scores = side.image_embeddings @ side.text_embeddings[row]
        found = with_the_right_one(
            side.pictures_for(side.text_embeddings[row], AT_MOST), side.place(scores, row)
        )
        answers = [_answer(side, one, one.row == row, pictures) for one in found]
        queries.append(Query(side.captions[row], answers))
    lead = (
        f"{len(queries)} captions drawn at random from those the text tower never saw, each with the nearest of the "
        f"{len(side.ids):,} unseen pictures: place, cosine. Where the right one is not among the first {AT_MOST}, "
        "it stands last with its place."
    )
    return Gallery("Caption → picture, unseen", lead, queries)


def captions_by_picture(side: Side, pictures: Pictures, seed: int) -> Gallery:
    """Pictures of unseen concepts, and the unseen captions nearest to each."""
    queries = []
    for row in draw(len(side.ids), QUERIES, seed):
        scores = side.text_embeddings @ side.image_embeddings[row]
        found = with_the_right_one(side.captions_for(row, AT_MOST), side.place(scores, row))
        answers = [_answer(side, one, one.row == row) for one in found]
        queries.append(Query(side.captions[row], answers, pictures(side.ids[row], side.captions[row])))
    lead = f"{len(queries)} pictures drawn at random from the unseen, each with the nearest of the unseen captions."
    return Gallery("Picture → caption, unseen", lead, queries)


def free_queries(
    side: Side, texts: Sequence[str], embeddings: np.ndarray, pictures: Pictures, unseen: set[str]
) -> Gallery:
    """Texts of one's own against all pictures; nobody knows the right answer.

    Args:
        side: all pictures.
        texts: Q of them.
        embeddings: float32 [Q, D], unit rows.
        pictures: gives a picture by id and name.
        unseen: ids held out of training.
    """
    queries = []
    for text, embedding in zip(texts, embeddings, strict=True):
        found = side.pictures_for(embedding, AT_MOST)
        queries.append(Query(text, [_answer(side, one, None, pictures, unseen) for one in found]))
    lead = f"Texts that are no picture's caption, among all {len(side.ids):,} pictures. “unseen” marks a held-out one."
    return Gallery("In your own words", lead, queries)


def with_the_right_one(found: list[Found], right: Found) -> list[Found]:
    """Answers, and behind them the right one where it is not among them."""
    return found if any(one.row == right.row for one in found) else [*found, right]


def _answer(
    side: Side,
    found: Found,
    right: bool | None,
    pictures: Pictures | None = None,
    unseen: set[str] | frozenset[str] = frozenset(),
) -> Answer:
    name = side.captions[found.row]
    picture = pictures(side.ids[found.row], name) if pictures else None
    note = "unseen" if side.ids[found.row] in unseen else ""
    return Answer(found.rank, found.score, name, picture, right, note)
