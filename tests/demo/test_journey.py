"""From a store to the page: the demo's second half on twelve coloured squares."""

import dataclasses
import re
from pathlib import Path

import pytest

from demo.journey import Journey, Places, count_split
from demo.page import Picture
from demo.showing import show_queries, show_tables, write_page

SMALL = ["--text-tower", "transformer", "--text-width", "16", "--text-depth", "1", "--text-heads", "1"]


def train(journey: Journey) -> None:
    journey.train(SMALL, steps=3, learning_rate="1e-3", max_text_length=8)


@pytest.mark.slow
def test_second_half_and_again(
    tmp_path: Path, colour_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").symlink_to(colour_store)
    seen, unseen = (
        count_split(str(tmp_path / "store"), "train"),
        count_split(str(tmp_path / "store"), "heldout"),
    )
    assert seen + unseen == 12
    assert unseen > 0

    journey = Journey(Places(tmp_path, "transformer"))
    train(journey)
    tables = show_tables(journey.retrieval())
    galleries = show_queries(journey, ["red", "grass"], lambda key, name: Picture(key.encode(), "png", name))
    page = write_page(journey, "Squares", "Twelve of them.", tables, galleries, [("nobody", "")])
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"page: {page}"
    assert f"--batch-size {seen} " in said.replace("\\\n", "")
    assert re.search(rf"Unseen concepts \(held out\): {unseen} pictures among each other", said)
    assert re.search(r"^  'grass': ", said, re.MULTILINE)
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") == 2
    assert "lit-eval retrieval" in html

    train(Journey(journey.places))
    assert "nothing to do" in capsys.readouterr().out


def test_places_are_apart_by_run(tmp_path: Path) -> None:
    places = Places(tmp_path, "a")
    other = dataclasses.replace(places, run_name="b")
    assert places.store == other.store
    assert places.run != other.run
    assert places.report("x") != other.report("x")
