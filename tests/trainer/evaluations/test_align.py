"""`lit-eval align` on stores whose arrangement is known."""

import json

import numpy as np
import pytest

from trainer.evaluate import main

WORDS = ("red", "green", "blue", "large", "small", "round", "flat", "old")


@pytest.fixture
def rows(row):
    """56 images: the sum of two corners of a cube, captioned with the two corners' words."""
    made = []
    for i, first in enumerate(WORDS):
        for j in range(1, 8):
            vector = np.eye(8)[i] + np.eye(8)[(i + j) % 8] * 0.9
            made.append(row(f"{first}-{j}", [vector.tolist()], (f"{first} {WORDS[(i + j) % 8]} {j}",)))
    return made


def test_a_tower_that_sees_the_words_goes_with_the_captions(write_store, row, rows, tmp_path, capsys):
    drawn = np.random.default_rng(0).standard_normal((len(rows), 1, 8))
    blind = [row(one.id, vector.tolist(), one.captions) for one, vector in zip(rows, drawn, strict=True)]
    found = {}
    for name, some in (("seeing", rows), ("blind", blind)):
        report = tmp_path / f"{name}.json"
        store = write_store([some[:30], some[30:]], name=name)
        assert main(["align", "--store", store, "--neighbours", "5", "--output", str(report)]) == 0
        found[name] = json.loads(report.read_text())["towers"]["tower"]
    assert found["seeing"]["mutual_neighbours"] > 2 * found["blind"]["mutual_neighbours"]
    assert found["seeing"]["cka"] > 0.5 > 0.2 > abs(found["blind"]["cka"])
    assert "mutual neighbours" in capsys.readouterr().out


def test_images_without_a_caption_and_repeated_wordings_are_left_out(write_store, row, rows, tmp_path):
    more = [*rows, row("bare", [[1.0] * 8], ()), row("again", [[2.0] * 8], (rows[0].captions[0].upper(),))]
    report = tmp_path / "align.json"
    assert main(["align", "--store", write_store([more]), "--output", str(report)]) == 0
    assert json.loads(report.read_text())["n"] == len(rows)


def test_the_sample_is_bounded_and_the_same_every_time(write_store, rows, tmp_path):
    store = write_store([rows[:7], rows[7:]])
    figures = []
    for name in ("a", "b"):
        report = tmp_path / name
        assert main(["align", "--store", store, "--sample", "20", "--output", str(report)]) == 0
        figures.append(json.loads(report.read_text()))
    assert figures[0] == figures[1]
    assert figures[0]["n"] == 20


def test_a_store_without_captions_is_refused(write_store, row, capsys):
    store = write_store([[row(f"{n}", [[1.0, n]], ()) for n in range(5)]])
    assert main(["align", "--store", store]) == 2
    assert "at least 4 images with a caption" in capsys.readouterr().err
