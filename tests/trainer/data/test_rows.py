"""Which images are trained on does not depend on the store they came in."""

import numpy as np
import pytest

from trainer.data.rows import keys_of, take_rows
from trainer.data.stores import open_stores


def test_hold_out_by_caption_keeps_equal_first_captions_together(spooled, row):
    rows = [row(f"{i}", [[i, 1, 2]], (f"caption {i // 2}",)) for i in range(400)]
    spool = spooled([rows], holdout_fraction=0.25)
    kept = spool.rows
    assert 260 < len(kept) < 340
    assert all((row ^ 1) in set(kept.tolist()) for row in kept.tolist())
    again = spooled([rows], "again", holdout_fraction=0.25, holdout_by="image")
    assert not np.array_equal(kept, again.rows)


def test_where_all_are_trained_on_no_list_of_them_is_kept(spooled, row):
    spool = spooled([[row(f"{i}", [[i, 1, 2]], (f"caption {i}",)) for i in range(40)]])
    assert spool.rows == range(40)
    assert take_rows(spool.rows, np.array([3, 5])).tolist() == [3, 5]


def test_the_hold_out_of_one_store_is_held_out_of_another(spooled, row):
    def rows(prefix: str, first: int):
        return [
            [
                row(f"{prefix}{i}", [[i, 1, 2]], ("x",), image=f"picture {i}".encode())
                for i in range(first, 200)
            ]
        ]

    choices = {"holdout_fraction": 0.3, "holdout_by": "image"}
    all_of_them, half = spooled(rows("a", 0), "a", **choices), spooled(rows("b", 100), "b", **choices)
    assert [row - 100 for row in all_of_them.rows.tolist() if row >= 100] == half.rows.tolist()


def test_images_of_a_validation_store_are_not_trained_on(spooled, write_store, row, tmp_path):
    rows = [row(f"a{i}", [[i, 1]], (f"{i}",), image=f"picture {i}".encode()) for i in range(6)]
    again = [row(f"b{i}", [[i, 1]], ("another caption",), image=f"picture {i}".encode()) for i in (4, 1, 9)]
    (validation,) = open_stores([write_store([again[:2], again[2:]], "validation")], None, {})
    apart = keys_of([validation])
    assert len(apart) == 3
    assert spooled([rows], apart=apart).rows.tolist() == [0, 2, 3, 5]
    assert len(keys_of([])) == 0


def test_nothing_left_to_train_on_is_said(spooled, row):
    units = [[row("a", [[1, 2]], (("x", "title", "en"),))]]
    with pytest.raises(ValueError, match="at least one image must be left"):
        spooled(units, caption_kinds=("title",), caption_langs=("en",), holdout_fraction=0.9999999)


@pytest.mark.parametrize(("choice", "known"), [("caption_kinds", "title"), ("caption_langs", "en")])
def test_an_unknown_kind_or_language_is_refused_with_those_there_are(spooled, row, choice, known):
    with pytest.raises(ValueError, match=f"{choice}: .*found tilte. Known: {known}"):
        spooled([[row("a", [[1, 2]], (("x", "title", "en"),))]], **{choice: ("tilte",)})


def test_training_texts_are_the_kept_captions_in_their_templates(spooled, units):
    found = list(spooled(units).training_texts(("{}", "a photo of {}")))
    assert found == ["a cat", "a photo of one sleeping cat", "größer {}", "a photo of A  CAT", "dogs"]
