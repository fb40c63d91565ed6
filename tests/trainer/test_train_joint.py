"""A whole run on captions drawn jointly: both kinds of an image's captions find it, and the run resumes."""

import jax
import numpy as np
import pytest

from tests.trainer.runs import TINY, WORDS, leaves, lines, places, stop_after
from trainer import train
from trainer.run_directory import load_run

pytestmark = pytest.mark.usefixtures("compiled_once")

TAGS = ("sky", "sea", "tree", "road", "house", "cloud", "river", "field")  # no word that a title has


@pytest.fixture
def flags(write_store, row, tmp_path):
    """Eight images along the axes, with a title and tags each."""
    pairs = zip(WORDS, TAGS, strict=True)
    rows = [
        row(f"{n}", [np.eye(8)[n].tolist()], ((f"a {title} one", "title", None), (tags, "tags", None)))
        for n, (title, tags) in enumerate(pairs)
    ]
    store = write_store([rows])
    joint = ("--caption-draw", "joint", "--caption-kinds", "title", "tags")
    usual = ["--batch-size", "8", "--steps", "60", "--learning-rate", "1e-2", "--log-every", "1"]

    def make(output, *more):
        return [*places(tmp_path, store, output), *TINY, *joint, *usual, *more]

    return make


def test_both_kinds_are_learned_and_a_stopped_run_goes_on(flags, tmp_path, monkeypatch) -> None:
    assert train.main(flags("straight")) == 0
    tower = load_run(tmp_path / "straight").text_tower
    embed = jax.jit(tower.embed)
    for captions in ([f"a {title} one" for title in WORDS], TAGS):
        # The images are the axes: a caption's nearest is its largest component.
        found = np.asarray(embed(tower.params, tower.tokenizer(captions, 6)))
        assert found.argmax(axis=1).tolist() == list(range(8))
        assert (found / np.linalg.norm(found, axis=1, keepdims=True)).argmax(axis=0).tolist() == list(
            range(8)
        )
    found = lines(tmp_path / "straight")
    assert found[-1]["loss"] < 0.2 * found[0]["loss"]
    assert found[-1]["tokens_per_second"] == pytest.approx(2 * 6 * found[-1]["samples_per_second"])

    stop_after(5, flags("stopped"), monkeypatch)
    assert train.main(flags("stopped")) == 0
    for ours, theirs in zip(leaves(tmp_path / "stopped"), leaves(tmp_path / "straight"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
