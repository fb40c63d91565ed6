"""Unit vectors: length one, zero stays zero, NaN is refused."""

import numpy as np
import pytest

from trainer.evals.vectors import unit_vectors


def test_rows_get_length_one_in_float32_and_the_input_stays():
    raw = np.array([[3, 4], [0, 0], [-0.5, 0]], np.float16)
    unit = unit_vectors(raw, "rows")
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0], [-1, 0]], atol=1e-6)
    np.testing.assert_array_equal(raw[0], [3, 4])
    same = np.ones((1, 4), np.float32)
    assert unit_vectors(same, "rows")[0, 0] == 0.5
    assert same[0, 0] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match=r"rows must be finite; 1 of 3 rows .*first: row 2"):
        unit_vectors(np.array([[1.0, 2.0], [0.0, 0.0], [1.0, bad]]), "rows")
