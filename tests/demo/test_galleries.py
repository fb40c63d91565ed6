"""Looking up and the galleries, on vectors whose order can be seen."""

import numpy as np

from demo.galleries import AT_MOST, captions_by_picture, free_queries, pictures_by_caption, with_the_right_one
from demo.looking import Found, Side, draw, nearest
from demo.page import Picture

COUNT = 8


def side(shift: int = 0) -> Side:
    """COUNT pictures on a circle; each name lies on the picture `shift` places further."""
    angles = 2 * np.pi * np.arange(COUNT) / COUNT
    pictures = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    ids = [f"id-{n}" for n in range(COUNT)]
    return Side(ids, [f"name {n}" for n in range(COUNT)], pictures, np.roll(pictures, -shift, axis=0))


def picture(key: str, name: str) -> Picture:
    return Picture(key.encode(), "png", name)


def test_nearest_first() -> None:
    found = side().pictures_for(np.array([1.0, 0.1], np.float32), 3)
    assert [one.row for one in found] == [0, 1, 7]
    assert [one.rank for one in found] == [1, 2, 3]
    assert len(nearest(np.zeros(2), 5)) == 2


def test_place_counts_ties_against_us() -> None:
    scores = np.array([0.5, 0.9, 0.5, 0.1])
    assert side().place(scores, 2) == Found(2, 3, 0.5)
    assert side().place(scores, 1).rank == 1


def test_the_right_one_is_shown_even_when_it_is_far_behind() -> None:
    found = [Found(4, 1, 0.9), Found(2, 2, 0.8)]
    assert with_the_right_one(found, Found(2, 2, 0.8)) == found
    assert with_the_right_one(found, Found(7, 6, 0.1)) == [*found, Found(7, 6, 0.1)]


def test_galleries_mark_the_right_answer_with_its_place() -> None:
    near, far = (
        pictures_by_caption(side(), picture, seed=0),
        pictures_by_caption(side(shift=4), picture, seed=0),
    )
    for query in near.queries:
        assert [answer.right for answer in query.answers] == [True] + [False] * (AT_MOST - 1)
        assert query.answers[0].text == query.text
    for query in far.queries:  # each name lies opposite its picture
        assert (query.answers[-1].rank, query.answers[-1].right) == (COUNT, True)
        assert len(query.answers) == AT_MOST + 1
    by_picture = captions_by_picture(side(), picture, seed=0).queries[0]
    assert by_picture.picture is not None
    assert by_picture.answers[0].text == by_picture.text
    assert by_picture.answers[0].picture is None


def test_free_queries_mark_the_unseen() -> None:
    everything = side()
    found = free_queries(everything, ["east"], everything.image_embeddings[:1], picture, {"id-1"})
    answers = found.queries[0].answers
    assert answers[0].text == "name 0"
    assert {answer.text for answer in answers if answer.note == "unseen"} == {"name 1"}
    assert all(answer.right is None for answer in answers)


def test_the_gallery_is_drawn_by_seed() -> None:
    assert draw(100, 10, 1) == draw(100, 10, 1) != draw(100, 10, 2)
    assert len(set(draw(100, 10, 1))) == 10
    assert draw(3, 10, 0) == [0, 1, 2]
