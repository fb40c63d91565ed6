"""The sample is the same however the store is cut, and small whatever the store's size."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from schemas.digests import key64
from schemas.store import open_store
from trainer.evals.selection import Selection
from trainer.report.sample import MOST_PARTS, draw_sample


def test_lowest_hashes_however_the_store_is_cut(
    write_store: Callable[..., str], row: Callable[..., Any]
) -> None:
    rows = [row(f"id{n}", [[float(n + 1), 0.0]], (f"caption {n}",) if n % 3 else ()) for n in range(20)]
    expected = sorted((one.id for one in rows), key=lambda id: key64(id.encode()))[:7]
    for name, cut in (("one", [rows]), ("many", [rows[:3], rows[3:15], rows[15:]])):
        images = open_store(write_store(cut, name=name)).images("tower")
        sample = draw_sample(images, Selection(), 7)
        assert sample.ids == expected
        numbers = [int(id[2:]) for id in sample.ids]
        np.testing.assert_allclose(sample.norms, [n + 1 for n in numbers])
        np.testing.assert_allclose(np.linalg.norm(sample.embeddings, axis=1), 1, rtol=1e-6)
        assert [bool(captions) for captions in sample.captions] == [bool(n % 3) for n in numbers]
        assert sample.captioned().ids == [id for id in expected if int(id[2:]) % 3]
        assert sample.looked_at == 20
        assert {unit[:5] for unit in sample.units} == {"g000-"}


def test_of_many_parts_some_are_read(write_store: Callable[..., str], row: Callable[..., Any]) -> None:
    units = [[row(f"id{n}", [[1.0, 0.0]], ("x",))] for n in range(2 * MOST_PARTS)]
    images = open_store(write_store(units)).images("tower")
    sample = draw_sample(images, Selection(), 1000)
    assert (sample.parts, sample.all_parts, len(sample.ids)) == (MOST_PARTS, 2 * MOST_PARTS, MOST_PARTS)
    assert len(images.parts) == 2 * MOST_PARTS  # the opened store is as it was
    with pytest.raises(ValueError, match="at least one image"):
        draw_sample(images, Selection(ids="nothing*"), 5)
