"""The gallery: hits and misses in a fixed order, right answers marked, hostile captions harmless."""

import numpy as np

from trainer.evals.retrieval import Ranks, retrieval_ranks
from trainer.report.gallery import Gallery, gallery_markup, make_gallery
from trainer.report.sample import Sample

NASTY = '</span><script>alert(1)</script><img src=x onerror="alert(2)">'


def make(captions: list[str], vectors: np.ndarray, texts: np.ndarray) -> tuple[Sample, Ranks]:
    size = len(captions)
    sample = Sample(
        ids=[f"id<{row}>" for row in range(size)],
        units=["g000-00000"] * size,
        image_sha256=[b""] * size,
        image_keys=np.arange(size, dtype=np.uint64),
        caption_keys=np.array([hash(caption) % 2**60 for caption in captions], np.uint64),
        captions=[[caption] for caption in captions],
        embeddings=vectors.astype(np.float32),
        norms=np.ones(size, np.float32),
        looked_at=size,
        parts=1,
        all_parts=1,
    )
    return sample, retrieval_ranks(sample.embeddings, texts.astype(np.float32), np.arange(size))


def test_half_are_misses_and_right_answers_are_marked() -> None:
    vectors, texts = np.eye(4), np.eye(4)[[0, 1, 3, 2]]  # the last two captions are swapped
    sample, ranks = make(["red", "green", "blue", "grey"], vectors, texts)
    gallery = make_gallery(sample, texts, ranks, queries=2)
    assert [query.row for query in gallery.by_text] == [0, 2]
    hit, miss = gallery.by_text
    assert (hit.place, hit.answers[0].row, hit.answers[0].right) == (1, 0, True)
    assert (miss.place, miss.answers[0].row, miss.answers[0].right) == (4, 3, False)  # ties count against us
    assert [query.row for query in make_gallery(sample, texts, ranks, queries=4).by_image] == [0, 1, 2, 3]
    assert [query.row for query in make_gallery(sample, texts, ranks, queries=3).by_image] == [0, 1, 2]


def test_an_equal_caption_is_right_too() -> None:
    vectors = np.eye(3)
    sample, ranks = make(["red", "red", "blue"], vectors, np.eye(3)[[1, 1, 2]])
    query = make_gallery(sample, np.eye(3)[[1, 1, 2]], ranks, queries=3).by_text[0]
    assert query.answers[0].row == 1
    assert query.answers[0].right


def test_captions_and_ids_stay_text() -> None:
    sample, ranks = make([NASTY, "b\u202eidi"], np.eye(2), np.eye(2))
    gallery = make_gallery(sample, np.eye(2), ranks, queries=2)
    made = gallery_markup(gallery, sample, {"id<0>": b"jpeg"})
    assert "<script" not in made
    assert "<img src=x" not in made
    assert "\u202e" not in made
    assert "&lt;script&gt;alert(1)" in made
    assert made.count("data:image/jpeg;base64,anBlZw==") == 3  # an answer to both captions, and a query
    assert made.count('class="none"') == 3
    assert isinstance(gallery, Gallery)
