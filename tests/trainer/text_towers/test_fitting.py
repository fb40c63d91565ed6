"""Differences between the tensors there are and those a model asks for."""

import numpy as np
import pytest

from trainer.text_towers.fitting import misfits, refuse_misfits

WANTED = {"a": (2, 3), "b": (4,), "c": ()}


def test_tensors_that_fit_pass() -> None:
    found = {"a": np.zeros((2, 3), np.float16), "b": np.zeros(4, np.float32), "c": np.float64(1)}
    assert misfits(found, WANTED) == []
    refuse_misfits(found, WANTED, "file")


def test_each_difference_has_its_line() -> None:
    found = {"a": np.zeros((3, 2)), "b": np.zeros(4, np.int32), "d": np.zeros(1)}
    assert misfits(found, WANTED) == [
        "missing: c []",
        "shape: a must be [2, 3], found [3, 2]",
        "type: b must be floating point, found int32",
        "surplus: d [1]",
    ]
    with pytest.raises(ValueError, match=r"file: .*\n  missing: c \[\]"):
        refuse_misfits(found, WANTED, "file")
