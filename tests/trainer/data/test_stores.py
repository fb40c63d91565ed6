"""Stores of a mixture are of one space; a refusal says what differs."""

import pytest

from trainer.data.stores import open_stores


@pytest.fixture
def two(write_store, row):
    def make(**other) -> list[str]:
        units = [[row("a", [[1, 2]], ("x",))]]
        return [write_store(units, "first"), write_store([[row("b", [[3, 4]], ("y",))]], "second", **other)]

    return make


def test_stores_of_one_space_are_opened_in_their_order(two):
    opened = open_stores(two(), "tower", {})
    assert [store.source.store.rsplit("/", 1)[1] for store in opened] == ["first", "second"]


def test_another_space_is_refused_naming_what_differs(two):
    with pytest.raises(ValueError, match=r"one space, found weights: 'random:0' and 'random:1'") as error:
        open_stores(two(weights="random:1"), None, {})
    assert "first" in str(error.value)
    assert "second" in str(error.value)


def test_a_folder_of_another_name_and_the_same_space_is_found(two, tmp_path):
    paths = two()
    (tmp_path / "second" / "images" / "tower").rename(tmp_path / "second" / "images" / "renamed")
    opened = open_stores(paths, "tower", {})
    assert opened[1].images.folder.path.endswith("renamed")


def test_the_same_content_twice_is_refused(two, write_store, row):
    again = write_store([[row("a", [[1, 2]], ("x",))]], "again")
    with pytest.raises(ValueError, match="--store-weights"):
        open_stores([*two(), again], None, {})


def test_an_unknown_tower_is_refused_with_those_there_are(two):
    with pytest.raises(ValueError, match="Known: tower"):
        open_stores(two(), "other", {})
