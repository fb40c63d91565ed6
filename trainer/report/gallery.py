"""What a few queries find: captions looking for images, and images for captions, hits and misses alike."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.evals.retrieval import Ranks
from trainer.report.markup import escape
from trainer.report.sample import Sample
from trainer.report.thumbnails import Thumbnails

ANSWERS = 5


@dataclass(frozen=True)
class Answer:
    """One answer: a row of the sample, its cosine, and whether it counts as right."""

    row: int
    score: float
    right: bool


@dataclass(frozen=True)
class Query:
    """A row of the sample that asks, the best answers, and the place of its own, 1 for the best."""

    row: int
    answers: Sequence[Answer]
    place: int


@dataclass(frozen=True)
class Gallery:
    """Queries both ways.

    Attributes:
        by_text: captions that look for images.
        by_image: images that look for captions.
    """

    by_text: Sequence[Query]
    by_image: Sequence[Query]

    def rows(self) -> list[int]:
        """Rows whose pictures are shown."""
        shown = [answer.row for query in self.by_text for answer in query.answers]
        return list(dict.fromkeys(shown + [query.row for query in self.by_image]))


def make_gallery(sample: Sample, texts: np.ndarray, ranks: Ranks, queries: int) -> Gallery:
    """Chooses queries by the order of the sample, half of them misses where there are so many.

    Args:
        sample: images with captions.
        texts: float32 [N, D], unit rows; of the first caption of each.
        ranks: of the sample, a caption an image.
        queries: how many each way.
    """
    return Gallery(
        by_text=[
            _query(sample, row, sample.embeddings @ texts[row], int(ranks.t2i[row]))
            for row in _hits_and_misses(ranks.t2i, queries)
        ],
        by_image=[
            _query(sample, row, texts @ sample.embeddings[row], int(ranks.i2t[row]))
            for row in _hits_and_misses(ranks.i2t, queries)
        ],
    )


def gallery_markup(gallery: Gallery, sample: Sample, thumbnails: Thumbnails) -> str:
    """Both directions as markup."""
    pictures = {row: thumbnails.get(sample.ids[row]) for row in gallery.rows()}
    by_text = "\n".join(_by_text(query, sample, pictures) for query in gallery.by_text)
    by_image = "\n".join(_by_image(query, sample, pictures) for query in gallery.by_image)
    return f"<h3>A caption looks for its image</h3>\n{by_text}\n<h3>An image looks for its caption</h3>\n{by_image}"


def _query(sample: Sample, row: int, scores: np.ndarray, rank: int) -> Query:
    best = np.argsort(-scores, kind="stable")[:ANSWERS]
    right = sample.same(row, best)
    answers = [
        Answer(int(one), float(scores[one]), bool(good)) for one, good in zip(best, right, strict=True)
    ]
    return Query(row, answers, rank + 1)


def _hits_and_misses(ranks: np.ndarray, queries: int) -> list[int]:
    hits, misses = np.flatnonzero(ranks == 0).tolist(), np.flatnonzero(ranks > 0).tolist()
    wanted_misses = min(len(misses), max(queries // 2, queries - len(hits)))
    return hits[: queries - wanted_misses] + misses[:wanted_misses]


def _by_text(query: Query, sample: Sample, pictures: Mapping[int, bytes | None]) -> str:
    answers = "".join(
        _answer(answer, _picture(answer.row, sample, pictures), sample.captions[answer.row][0])
        for answer in query.answers
    )
    asked = f"“<bdi>{escape(sample.captions[query.row][0], 160)}</bdi>”"
    return _markup(asked, query, "image", answers)


def _by_image(query: Query, sample: Sample, pictures: Mapping[int, bytes | None]) -> str:
    answers = "".join(_answer(answer, "", sample.captions[answer.row][0]) for answer in query.answers)
    return _markup(_picture(query.row, sample, pictures), query, "caption", answers)


def _markup(asked: str, query: Query, own: str, answers: str) -> str:
    place = f"own {own} first" if query.place == 1 else f"own {own} at place {query.place:,}"
    head = f"<h3><span>{asked}</span><small>{place}</small></h3>"
    return f'<article class="query">\n{head}\n<ol>{answers}</ol>\n</article>'


def _answer(answer: Answer, picture: str, caption: str) -> str:
    mark = '<b class="mark">✓ right</b>' if answer.right else ""
    kind = ' class="right"' if answer.right else ""
    return f"<li{kind}>{picture}<bdi>{escape(caption, 90)}</bdi>{mark}<small>cosine {answer.score:.2f}</small></li>\n"


def _picture(row: int, sample: Sample, pictures: Mapping[int, bytes | None]) -> str:
    """A picture that carries its own bytes, or a box in its place."""
    data = pictures.get(row)
    name = escape(sample.ids[row], 60)
    if data is None:
        return f'<span class="none" title="{name}">{escape(sample.ids[row], 24)}</span>'
    return f'<img alt="{name}" title="{name}" src="{data_uri(data)}">'


def data_uri(data: bytes) -> str:
    """A JPEG as a `data:` URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
