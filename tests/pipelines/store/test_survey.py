"""What one pass over a store counts: histogram, sample, flaws."""

import math

import numpy as np
import pyarrow as pa
import pytest

from pipelines.store.histogram import FINE, Histogram
from pipelines.store.sample import Sample
from pipelines.store.survey import _Counting
from schemas.digests import key64
from schemas.pairs import CAPTION
from schemas.store import JoinedPart


def part(ids: list[str], vectors: np.ndarray, captions: list[list[str]] | None = None) -> JoinedPart:
    """A part of one view."""
    captions = captions or [[f"of {id}"] for id in ids]
    texts = [[{"text": text, "kind": "caption", "lang": None} for text in own] for own in captions]
    pairs = pa.table(
        {
            "id": ids,
            "captions": pa.array(texts, pa.list_(CAPTION)),
            "labels": pa.array([[1]] * len(ids), pa.list_(pa.int32())),
            "label_names": pa.array(
                [["dog", "cat"][: n % 3] for n in range(len(ids))], pa.list_(pa.string())
            ),
        }
    )
    digests = np.arange(32 * len(ids), dtype=np.uint8).reshape(-1, 32)
    return JoinedPart("p", pa.array(ids), digests, vectors[:, None], pairs)


def test_histogram_counts_exactly_whatever_comes_first() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [[1e-3], rng.normal(20, 0.01, 5000), rng.normal(500, 100, 5000), [np.nan, np.inf]]
    )
    histogram = Histogram()
    for start in range(0, len(values), 700):
        histogram.add(values[start : start + 700].astype(np.float32))
    bars = histogram.bars(12)
    finite = values[np.isfinite(values)].astype(np.float32).astype(np.float64)
    assert 6 <= len(bars) <= 12
    assert [count for *_, count in bars] == [int(((finite >= a) & (finite < b)).sum()) for a, b, _ in bars]
    assert sum(count for *_, count in bars) == histogram.count == 10_001
    assert (histogram.smallest, histogram.largest) == (finite.min(), finite.max())
    assert math.isclose(histogram.mean, finite.mean(), rel_tol=1e-9)
    assert len(histogram._bins) <= FINE


@pytest.mark.parametrize("value", [0.0, 2.0, 65504.0, 3e38, 1e-30])
def test_histogram_of_equal_values_is_one_bar(value: float) -> None:
    histogram = Histogram()
    histogram.add(np.full(9, value))
    histogram.add(np.full(2, value))
    ((low, high, count),) = histogram.bars()
    assert low <= value < high
    assert count == 11
    assert Histogram().bars() == []


def test_the_sample_does_not_depend_on_how_the_store_is_cut() -> None:
    rng = np.random.default_rng(1)
    ids = [f"id-{n}" for n in range(300)]
    vectors = rng.standard_normal((300, 4)).astype(np.float32)
    vectors[:20] = 0  # has no direction
    whole, pieces = Sample(50), Sample(50)
    whole.add("u", part(ids, vectors))
    for start in range(0, 300, 7):
        pieces.add("u", part(ids[start : start + 7], vectors[start : start + 7]))
    expected = sorted(range(20, 300), key=lambda n: key64(ids[n].encode()))[:50]
    unit = vectors[expected] / np.linalg.norm(vectors[expected], axis=1, keepdims=True)
    for sample in (whole, pieces):
        assert len(sample) == 50
        np.testing.assert_allclose(sample.directions(), unit, atol=1e-6)
    cosines = unit.astype(np.float64) @ unit.T
    assert math.isclose(whole.mean_cosine() or 0, cosines[~np.eye(50, dtype=bool)].mean(), abs_tol=1e-6)
    first = whole.neighbours(queries=2, nearest=3)[0]
    order = [n for n in np.argsort(-cosines[0], kind="stable") if n != 0][:3]
    assert first.query.id == ids[expected[0]]
    assert [other.id for _, other in first.nearest] == [ids[expected[n]] for n in order]
    assert first.nearest[0][1].captions == (f"of {first.nearest[0][1].id}",)


def test_a_sample_of_none_or_one() -> None:
    sample = Sample()
    assert (sample.mean_cosine(), sample.neighbours()) == (None, [])
    sample.add("u", part(["a"], np.ones((1, 3), np.float32)))
    assert (sample.mean_cosine(), sample.neighbours()) == (None, [])


def test_flaws_are_counted_and_named() -> None:
    vectors = np.array(
        [[1, 2], [0, 0], [3, 3], [np.nan, 1], [np.inf, 1], [0, 0], [-4, -4], [2, 0]], np.float16
    )
    counting = _Counting()
    counting.add(part(list("abcdefgh"), vectors, [[], ["x"], ["y"] * 30, *[["z"]] * 5]))
    flaws = {name: (flaw.count, flaw.examples) for name, flaw in counting.flaws.items()}
    assert flaws == {"not finite": (2, ["d", "e"]), "zero": (2, ["b", "f"]), "constant": (2, ["c", "g"])}
    assert (counting.captions[0], counting.captions[1], counting.captions[20]) == (1, 6, 1)
    assert counting.labels == {"1": 8, "dog": 5, "cat": 2}
    assert counting.norms.count == 6
