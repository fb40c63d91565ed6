"""Candidates by index, name or WordNet id; labels mapped onto them."""

import json
from pathlib import Path

import numpy as np
import pytest

from trainer.evals.class_subset import read_subset
from trainer.evals.labels import LabelFile, map_labels, name_index, read_label_file

NAMES = ("tench", "crane", "goldfish", "crane")
INDEX = name_index(NAMES, ("n0", "n1", None, "n3"))


def write(tmp_path: Path, value: object) -> str:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def test_entries_of_any_kind_in_the_file_s_order(tmp_path: Path) -> None:
    assert read_subset(write(tmp_path, ["goldfish", 0, "n3"]), INDEX, 4) == (2, 0, 3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["crane"], "no class or several: 'crane'"),  # the name of two
        ([4, "eel", True], "4, 'eel', True"),
        ([0, "tench"], "twice: [0]"),
        ([], "a list of classes that is not empty"),
        ({"a": 1}, "a list of classes"),
    ],
)
def test_what_is_no_subset(tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises(ValueError) as error:
        read_subset(write(tmp_path, value), INDEX, 4)
    assert message in str(error.value)


def test_labels_become_places_among_the_candidates() -> None:
    labels = np.array([[0, -1], [3, 1], [2, 3]])
    np.testing.assert_array_equal(map_labels(labels, (3, 0), 4), [[1, -1], [0, -1], [-1, 0]])
    with pytest.raises(ValueError, match=r"class indices 0\.\.3; found \[4\]"):
        map_labels(np.array([[4]]), (0,), 4)
    with pytest.raises(ValueError, match=r"found \[-2\]"):
        map_labels(np.array([[-2]]), (0,), 4)


def test_labels_by_id_and_by_number(tmp_path: Path) -> None:
    by_id = read_label_file(write(tmp_path, {"a": [0, "n3"], "b": 2, "c": []}))
    np.testing.assert_array_equal(
        by_id.resolve(["b", "a", "c", "d"], INDEX), [[2, -1], [0, 3], [-1, -1], [-1, -1]]
    )
    by_number = read_label_file(write(tmp_path, [[0], [], [1, 2]]))
    ids = ["val/X_val_00000003.JPEG", "X_val_00000001", "2"]
    np.testing.assert_array_equal(by_number.resolve(ids, INDEX), [[1, 2], [0, -1], [-1, -1]])
    for id in ("none", "X_val_00000004", "X_0"):
        with pytest.raises(ValueError, match="ids must end in a number from 1 to 3"):
            by_number.resolve([id], INDEX)
    with pytest.raises(ValueError, match="1 unknown"):
        LabelFile("f", {"a": "eel"}, None).resolve(["a"], INDEX)
    with pytest.raises(ValueError, match="--labels"):
        read_label_file(str(tmp_path / "none.json"))


def test_numbers_as_names_are_class_indices(tmp_path: Path) -> None:
    file = LabelFile("f", {"a": "3", "b": "tench"}, None)
    np.testing.assert_array_equal(file.resolve(["a", "b"], INDEX), [[3], [0]])
    assert name_index(("7", "x"))["7"] == (0,)  # a class called so comes first
