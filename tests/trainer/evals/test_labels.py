"""Labels of stored images: integers as they are, names by class list."""

import numpy as np
import pyarrow as pa
import pytest

from trainer.evals.labels import name_index, pad_labels, resolve_labels


def table(labels, names):
    columns = {
        "labels": pa.array(labels, pa.list_(pa.int32())),
        "label_names": pa.array(names, pa.list_(pa.string())),
    }
    return pa.table(columns)


def test_integers_are_class_indices_and_names_are_looked_up():
    pairs = table([[2], [0, 1], [], [], []], [[], ["dog"], ["dog", " cat "], [], None])
    found = resolve_labels(pairs, name_index(["cat", "dog", "cow"]))
    np.testing.assert_array_equal(found, [[2, -1], [0, 1], [1, 0], [-1, -1], [-1, -1]])


def test_a_name_of_two_classes_means_both():
    found = resolve_labels(table([[]], [["crane"]]), name_index(["crane", "dog", "crane"]))
    np.testing.assert_array_equal(found, [[0, 2]])


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match=r"2 unknown in one part: \['Dog', 'eel'\]"):
        resolve_labels(table([[], []], [["Dog", "cat"], ["eel"]]), name_index(["cat", "dog"]))
    with pytest.raises(ValueError, match=r"--classes: must be given .* \['eel'\] in one part .* JSON list"):
        resolve_labels(table([[]], [["eel"]]), {})


def test_padding_of_nothing_keeps_a_column():
    assert pad_labels([]).shape == (0, 1)
    assert pad_labels([[], []]).tolist() == [[-1], [-1]]
