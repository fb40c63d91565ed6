"""Cosines of pairs by id: right, in constant memory, whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from trainer import evaluate
from trainer.evals.cosine_histogram import CosineHistogram
from trainer.evals.embed_text import text_embedder
from trainer.evals.vectors import unit_vectors
from trainer.run_directory import load_run


def test_cosines_by_id_and_caption(
    trained: Callable[..., tuple[str, Path]],
    write_store: Callable[..., str],
    row: Callable[..., Any],
    capsys: Any,
) -> None:
    _, run = trained()
    vectors = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float16).astype(np.float32)
    captions = (("red green", " ", "blue"), (), ("old red",))
    rows = [row(f"id{n}", [vectors[n].tolist()], captions[n]) for n in range(3)]
    store = write_store([rows[:1], rows[1:]], name="pairs")
    capsys.readouterr()
    assert evaluate.main(["pairs", "--run", str(run), "--store", store]) == 0
    assert "pairs: 3 captions of 2 images" in capsys.readouterr().out
    found = pq.read_table(run / "evaluations" / "pairs.parquet").to_pylist()
    assert [(one["id"], one["caption"]) for one in found] == [("id0", 0), ("id0", 2), ("id2", 0)]
    tower = load_run(run).text_tower
    texts = text_embedder(tower, tower.max_text_length)(["red green", "blue", "old red"])
    expected = np.einsum("md,md->m", unit_vectors(vectors[[0, 0, 2]], ""), texts)
    np.testing.assert_allclose([one["cosine"] for one in found], expected, atol=1e-6)

    report = json.loads((run / "evaluations" / "pairs.json").read_text(encoding="utf-8"))
    assert (report["n_pairs"], report["n_images"], report["file"]) == (3, 2, "pairs.parquet")
    assert report["cosine"]["mean"] == pytest.approx(expected.mean(), abs=1e-6)
    assert report["quantiles"]["0.5"] == pytest.approx(np.median(expected), abs=6e-5)
    assert sum(report["histogram"]["counts"]) == 3
    assert {"space_id", "content_id", "checkpoint_step", "options", "versions"} <= report.keys()

    assert evaluate.main(["pairs", "--run", str(run), "--store", store, "--ids", "id1"]) == 2
    assert "at least one image with a caption" in capsys.readouterr().err
    assert len(pq.read_table(run / "evaluations" / "pairs.parquet")) == 3  # the earlier file is as it was
    assert not list((run / "evaluations").glob(".*"))


def test_quantiles_are_those_of_all_values() -> None:
    values = np.random.default_rng(1).normal(0.2, 0.1, 10_000).astype(np.float32)
    histogram = CosineHistogram()
    for part in np.split(values, 10):
        histogram.add(part)
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        assert histogram.quantile(share) == pytest.approx(
            np.quantile(values, share, method="inverted_cdf"), abs=5e-5
        )
    summary = histogram.summary()
    assert summary["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert summary["std"] == pytest.approx(values.std(), abs=1e-6)
    assert (summary["min"], summary["max"]) == (values.min(), values.max())
    edges, counts = histogram.bars()
    assert sum(counts) == len(values)
    assert counts == np.histogram(values, edges)[0].tolist() or abs(edges[0] - values.min()) < 1e-4


def test_cosines_a_little_outside_and_all_equal_ones() -> None:
    histogram = CosineHistogram()
    histogram.add(np.array([1.0000001, 1.0000001, -1.0000001], np.float32))
    assert histogram.count == 3
    assert histogram.quantile(0.0) >= -1.0000002
    equal = CosineHistogram()
    equal.add(np.full(5, 0.25, np.float32))
    assert equal.quantile(0.5) == 0.25
    assert sum(equal.bars()[1]) == 5
