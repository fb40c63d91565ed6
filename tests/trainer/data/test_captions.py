"""Captions are chosen by kind and language, and drawn in four ways."""

import numpy as np
import pytest

from trainer.data.captions import select_captions
from trainer.data.rows import take_rows, training_rows
from trainer.data.sampler import Sampler
from trainer.data.spool import texts

KINDS = ("title", "description", "tags")


@pytest.fixture
def units(row):
    """Slots 0 to 4: all kinds; a title alone; two tags; a description in German; a caption of unknown kind."""
    return [
        [
            row(
                "all", [[1, 0]], (("tag", "tags", None), ("T", "title", "en"), ("D", "description", "en-GB"))
            ),
            row("title", [[2, 0]], (("only", "title", "en"),)),
            row("tags", [[3, 0]], (("t1", "tags", None), ("t2", "tags", "en"))),
        ],
        [
            row("german", [[4, 0]], (("Bild", "description", "de"), ("Titel", "title", "de"))),
            row("plain", [[5, 0]], (("plain", None, None),)),
        ],
    ]


def chosen(columns, captions) -> dict[str, list[list[str]]]:
    """By id: the texts in each group."""
    groups = len(captions.groups)
    found = {}
    for slot, name in enumerate(texts(columns, "id", np.arange(5))):
        spans = [slice(*captions.offsets[slot * groups + g : slot * groups + g + 2]) for g in range(groups)]
        index = [np.arange(len(captions))[span] for span in spans]
        found[name] = [texts(columns, "caption", captions.stored(one)) for one in index]
    return found


def test_all_captions_are_taken_in_their_order_unless_asked_otherwise(columns, tmp_path):
    captions = select_captions(columns, (), (), "caption", tmp_path)
    assert captions.index is None
    assert chosen(columns, captions)["all"] == [["tag", "T", "D"]]
    assert len(captions) == 9


def test_kinds_are_groups_in_the_order_asked_for(columns, tmp_path):
    found = chosen(columns, select_captions(columns, KINDS, (), "joint", tmp_path))
    assert found == {
        "all": [["T"], ["D"], ["tag"]],
        "title": [["only"], [], []],
        "tags": [[], [], ["t1", "t2"]],
        "german": [["Titel"], ["Bild"], []],
        "plain": [[], [], []],
    }


def test_drawing_any_caption_takes_the_kinds_asked_for_as_one_group(columns, tmp_path):
    captions = select_captions(columns, ("tags", "none"), (), "caption", tmp_path)
    found = chosen(columns, captions)
    assert found["all"] == [["tag"]]
    assert found["plain"] == [["plain"]]
    assert found["title"] == [[]]
    assert training_rows(columns, captions, 0, "image", tmp_path).tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    ("langs", "expected"),
    [
        (
            ("en",),
            {"all": [["T", "D"]], "title": [["only"]], "tags": [["t2"]], "german": [[]], "plain": [[]]},
        ),
        (("de",), {"all": [[]], "title": [[]], "tags": [[]], "german": [["Bild", "Titel"]], "plain": [[]]}),
        (
            ("none", "en-gb"),
            {"all": [["tag", "D"]], "title": [[]], "tags": [["t1"]], "german": [[]], "plain": [["plain"]]},
        ),
    ],
)
def test_languages_are_taken_by_their_first_tag(columns, tmp_path, langs, expected):
    assert chosen(columns, select_captions(columns, (), langs, "caption", tmp_path)) == expected


def draws(columns, tmp_path, how, kinds=KINDS, steps=60):
    """By step: what each of the four images with such a caption shows."""
    captions = select_captions(columns, kinds, (), how, tmp_path)
    rows = training_rows(columns, captions, 0, "image", tmp_path)
    sampler = Sampler(len(rows), len(rows), seed=3)
    for step in range(steps):
        drawn = sampler.rows(step)
        slots = take_rows(rows, drawn)
        places = captions.draw(sampler, step, drawn, slots, how)
        shown = [texts(columns, "caption", captions.stored(np.atleast_1d(one))) for one in places]
        yield dict(zip(texts(columns, "id", slots), shown, strict=True))


def test_joint_shows_one_of_each_kind_and_the_next_where_there_is_none(columns, tmp_path):
    seen = set()
    for step in draws(columns, tmp_path, "joint"):
        assert step["all"] == ["T", "D", "tag"]
        assert step["title"] == ["only"] * 3
        assert step["german"] == ["Titel", "Bild", "Titel"]
        assert set(step["tags"]) <= {"t1", "t2"}
        seen.add(tuple(step["tags"]))
    assert len(seen) == 8  # each kind draws for itself


def test_a_kind_for_the_batch_is_shown_by_all_that_have_it(columns, tmp_path):
    expected = {
        "T": {"all": "T", "title": "only", "german": "Titel"},
        "D": {"all": "D", "title": "only", "german": "Bild"},
        "tag": {"all": "tag", "title": "only", "german": "Titel"},
    }
    seen = set()
    for step in draws(columns, tmp_path, "kind-per-batch"):
        (kind,) = step["all"]
        seen.add(kind)
        assert {name: step[name][0] for name in ("all", "title", "german")} == expected[kind]
    assert seen == {"T", "D", "tag"}


def test_a_kind_for_each_example_is_one_it_has_each_as_likely(columns, tmp_path):
    count = {"T": 0, "D": 0, "tag": 0, "Titel": 0, "Bild": 0, "t1": 0, "t2": 0, "only": 0}
    for step in draws(columns, tmp_path, "kind-per-example", steps=600):
        for shown in step.values():
            count[shown[0]] += 1
    assert count["only"] == 600
    assert all(150 < count[name] < 250 for name in ("T", "D", "tag"))
    assert all(250 < count[name] < 350 for name in ("Titel", "Bild", "t1", "t2"))


def test_how_many_images_have_each_kind_is_told(columns, tmp_path):
    captions = select_captions(columns, KINDS, (), "joint", tmp_path)
    assert captions.images_with == {"title": 3, "description": 2, "tags": 2}
