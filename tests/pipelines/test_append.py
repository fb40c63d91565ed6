"""Inputs added later: what is done stays, what is new gets a generation, other towers say what they lack."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_precompute import publish
from schemas.manifest import PairsManifest
from schemas.storage import Folder
from tests.pipelines.stores import manifest_of, rows_of, tables_of

Rows = list[dict[str, Any]]


@pytest.fixture
def squares(tmp_path: Path, colour_rows: Rows, write_rows: Callable[..., Path]) -> Path:
    """Eight squares in two files; the last four come later."""
    for part in range(2):
        write_rows(tmp_path / "input" / f"squares-{part}.parquet", colour_rows[4 * part : 4 * part + 4])
    return tmp_path / "input"


@pytest.fixture
def more(squares: Path, colour_rows: Rows, write_rows: Callable[..., Path]) -> Callable[[], None]:
    """Adds two files, one before those that are there by name and one behind; one id and one image come again."""

    def add() -> None:
        write_rows(squares / "a-squares.parquet", [*colour_rows[8:10], colour_rows[0]])
        again = colour_rows[1] | {"key": "again"}
        write_rows(
            squares / "squares-2.parquet",
            [*colour_rows[10:], again, {**again, "image": b"broken", "key": "x"}],
        )

    return add


def arguments(source: Path, store: Path, *rest: str) -> list[str]:
    return [
        *("--input", str(source), "--format", "parquet", "--unit-bytes", "1", "--tower-id", "t"),
        *("--output", str(store), "--max-failure-rate", "1", *rest),
    ]


def test_appended_inputs_are_new_units_and_the_old_ones_stay(
    squares: Path, tmp_path: Path, more: Callable[[], None], embed: Any, stand_in_tower: list[int]
) -> None:
    store = tmp_path / "store"
    assert embed(*arguments(squares, store)) == 0
    before, old = tables_of(store), manifest_of(store)
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*-g000-*")}
    more()
    stand_in_tower.clear()
    assert embed(*arguments(squares, store, "--append", "--batch-size", "1")) == 0
    assert len(stand_in_tower) == 6  # three and four records, one of them broken
    after, new = tables_of(store), manifest_of(store)
    parts = {name: rows for name, rows in before.items() if "-g000-" in name}
    assert {name: after[name] for name in parts} == parts
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*-g000-*")} == times
    units = [(row["generation"], row["unit"], Path(row["path"]).name) for row in after["plan.parquet"]]
    assert units == [
        (0, 0, "squares-0.parquet"), (0, 1, "squares-1.parquet"),
        (1, 0, "a-squares.parquet"), (1, 1, "squares-2.parquet"),
    ]  # fmt: skip
    assert {name for name in after if name not in before} == {
        "images/t/embeddings-g001-00000.parquet", "images/t/embeddings-g001-00001.parquet",
        "pairs/pairs-g001-00000.parquet", "pairs/pairs-g001-00001.parquet", "pairs/parts-g001.parquet",
        "images/t/parts-g001.parquet", "images/t/failures-g001.parquet", "images/t/excluded-g001.parquet",
    }  # fmt: skip
    assert set(before) - set(after) == {
        "images/t/parts.parquet", "images/t/failures.parquet", "images/t/excluded.parquet", "pairs/parts.parquet"
    }  # fmt: skip
    assert (old.counts["seen"], new.counts["seen"]) == (8, 15)
    assert {**new.counts} == {
        "seen": 15, "embedded": 13, "failed": 1, "duplicate": 1, "distinct_images": 12
    }  # fmt: skip
    assert (new.run_id, new.space_id, dict(new.failures)) == (old.run_id, old.space_id, {"not_an_image": 1})
    assert new.content_id != old.content_id
    assert [(row["id"], row["part"]) for row in after["images/t/excluded-g001.parquet"]] == [
        ("square-00", "pairs-g001-00000.parquet")
    ]
    assert after["images/t/excluded-g001.parquet"][0]["kept_in"] == "pairs-g000-00000.parquet"
    pairs = PairsManifest.from_json(after["pairs/manifest.json"])
    assert (pairs.parts, pairs.counts["records"], pairs.counts["captions"]) == (4, 15, 15)


def test_a_store_that_grew_serves_what_one_run_would_have(
    squares: Path, tmp_path: Path, more: Callable[[], None], embed: Any
) -> None:
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    assert embed(*arguments(squares, grown)) == 0
    more()
    assert embed(*arguments(squares, grown, "--append")) == 0
    assert embed(*arguments(squares, whole)) == 0
    assert rows_of(grown) == rows_of(whole)
    assert manifest_of(grown).counts == manifest_of(whole).counts


def test_again_and_again(
    squares: Path, tmp_path: Path, more: Callable[[], None], embed: Any, colour_rows: Rows, write_rows: Any
) -> None:
    store = tmp_path / "store"
    assert embed(*arguments(squares, store, "--append")) == 0  # of a new store it means nothing
    assert manifest_of(store).tables == ""
    before = tables_of(store)
    assert embed(*arguments(squares, store, "--append")) == 0  # nothing new
    assert tables_of(store) == before
    more()
    assert embed(*arguments(squares, store, "--append")) == 0
    write_rows(squares / "b.parquet", [colour_rows[3] | {"key": "late"}])
    assert embed(*arguments(squares, store, "--append")) == 0
    after = tables_of(store)
    assert manifest_of(store).tables == "-g002"
    assert [name for name in after if name.startswith("images/t/parts")] == ["images/t/parts-g002.parquet"]
    assert manifest_of(store).counts["seen"] == 16
    assert embed(*arguments(squares, store)) == 0  # the plain command finds it complete
    assert tables_of(store) == after
    shutil.rmtree(store / "images" / "t")  # another machine's loss: made again from the plan, whole
    assert embed(*arguments(squares, store)) == 0
    assert tables_of(store) == after


def test_without_the_flag_every_difference_is_named(
    squares: Path, tmp_path: Path, more: Callable[[], None], embed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(*arguments(squares, tmp_path / "store")) == 0
    more()
    before = tables_of(tmp_path / "store")
    assert embed(*arguments(squares, tmp_path / "store")) == 2
    message = capsys.readouterr().err
    assert "a-squares.parquet: not in the plan" in message
    assert "squares-2.parquet: not in the plan" in message
    assert "--append adds inputs" in message
    os.truncate(squares / "squares-0.parquet", 100)
    assert embed(*arguments(squares, tmp_path / "store", "--append", "--caption-column", "key")) == 2
    message = capsys.readouterr().err
    assert "squares-0.parquet: size and version" in message
    assert "caption_column: the store has ['caption'], this command gives ['key']" in message
    assert tables_of(tmp_path / "store") == before


def test_only_the_new_files_may_be_given_and_names_stay_apart(
    tmp_path: Path, embed: Any, colour_rows: Rows, write_rows: Any
) -> None:
    """Monday's and Tuesday's 0.parquet both have a row 0."""
    store = tmp_path / "store"
    for day, rows in (("monday", colour_rows[:2]), ("tuesday", colour_rows[2:4])):
        write_rows(tmp_path / day / "0.parquet", rows)
        assert embed(*arguments(tmp_path / day, store, "--append", "--id-column", "")) == 0
    assert list(rows_of(store)) == [
        "0.parquet/0",
        "0.parquet/1",
        "tuesday/0.parquet/0",
        "tuesday/0.parquet/1",
    ]
    assert manifest_of(store).counts["duplicate"] == 0


def test_another_tower_says_what_it_lacks_and_a_rerun_completes_it(
    squares: Path,
    tmp_path: Path,
    more: Callable[[], None],
    embed: Any,
    stand_in_tower: list[int],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from pipelines.store.command import main as lit_store

    store, full = tmp_path / "store", ("--tower-id", "full", "--resize", "full")
    assert embed(*arguments(squares, store)) == 0
    assert embed(*arguments(squares, store, *full)) == 0
    more()
    assert embed(*arguments(squares, store, "--append")) == 0
    with caplog.at_level(logging.WARNING):
        assert len(rows_of(store, "full")) == 8  # what it has is whole and can be used
    assert "full: lacks 2 of 4 units, which were appended since (g001-00000 and on)" in caplog.text
    assert lit_store(["verify", str(store)]) == 0
    assert lit_store(["inspect", str(store)]) == 0
    printed = capsys.readouterr().out
    assert "images/full: lacks 2 of 4 units" in printed
    stand_in_tower.clear()
    assert embed(*arguments(squares, store, *full, "--batch-size", "1")) == 0
    assert len(stand_in_tower) == 6
    caplog.clear()
    assert rows_of(store, "full").keys() == rows_of(store).keys()
    assert caplog.text == ""
    assert lit_store(["verify", str(store)]) == 0
    assert "lacks" not in capsys.readouterr().out


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("die_at", [0, 3, 4, 7, 8, 10])
def test_death_at_any_write_leaves_a_store_that_serves_and_goes_on(
    squares: Path,
    tmp_path: Path,
    more: Callable[[], None],
    embed: Any,
    die_at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every file that is written over, moved or removed while the store grows: the process ends right before it."""
    store, whole = tmp_path / "store", tmp_path / "whole"
    assert embed(*arguments(squares, store)) == 0
    before = rows_of(store)
    shutil.copytree(store, whole)
    more()
    assert embed(*arguments(squares, whole, "--append")) == 0
    seen = 0

    def dying(action: Callable[..., Any]) -> Callable[..., Any]:
        def act(folder: Folder, name: str, *rest: Any) -> Any:
            nonlocal seen
            if name.split(".")[0].split("-")[0] in (
                "manifest",
                "parts",
                "failures",
                "excluded",
                "plan",
                "run",
            ):
                seen += 1
                if seen > die_at:
                    raise _Killed
            return action(folder, name, *rest)

        return act

    with monkeypatch.context() as patch:
        from lit_precompute import job, plan
        from pipelines.finish import finalise, pairs, standing

        patch.setattr(plan, "replace_file", dying(publish.replace))
        patch.setattr(job, "replace", dying(publish.replace))
        patch.setattr(finalise, "replace", dying(publish.replace))
        patch.setattr(pairs, "replace", dying(publish.replace))
        patch.setattr(standing, "remove", dying(publish.remove))
        with contextlib.suppress(BaseException):  # Beam wraps what ends a bundle
            embed(*arguments(squares, store, "--append"))
    assert rows_of(store) in (before, rows_of(whole))
    assert embed(*arguments(squares, store, "--append")) == 0
    assert tables_of(store) == tables_of(whole)


def test_a_folder_grows_but_not_beside_its_images(
    tmp_path: Path, embed: Any, colour_rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, store = tmp_path / "photos", tmp_path / "store"
    photos.mkdir()
    for row in colour_rows[:2]:
        (photos / f"{row['key']}.png").write_bytes(row["image"])
        (photos / f"{row['key']}.txt").write_text(row["caption"])
    (photos / "read-me.txt").write_text("of no image")
    command = [*("--input", str(photos), "--format", "folder", "--tower-id", "t", "--output", str(store))]
    assert embed(*command) == 0
    assert embed(*command) == 0  # a text of no image is no new input
    assert embed("--input", f"{photos}/*.png", *command[2:]) == 0  # nor are the texts beside gone
    (photos / "later.png").write_bytes(colour_rows[5]["image"])
    (photos / "later.txt").write_text("later")
    (photos / f"{colour_rows[0]['key']}.json").write_text(json.dumps({"caption": "second thoughts"}))
    assert embed(*command, "--append") == 2
    assert (
        f"{colour_rows[0]['key']}.json: not in the plan, beside an image that is" in capsys.readouterr().err
    )
    (photos / f"{colour_rows[0]['key']}.json").unlink()
    assert embed(*command, "--append") == 0
    assert rows_of(store)["later"][1] == "later"
    assert list(rows_of(store)) == ["square-00", "square-01", "later"]


def test_lost_pairs_are_not_made_up_of_what_was_appended(
    squares: Path, tmp_path: Path, more: Callable[[], None], embed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert embed(*arguments(squares, store)) == 0
    (store / "pairs" / "manifest.json").unlink()
    more()
    capsys.readouterr()
    with contextlib.suppress(Exception):  # Beam raises what finalising does
        assert embed(*arguments(squares, store, "--append")) != 0
    assert not (store / "pairs" / "manifest.json").exists()
    (store / "images" / "t" / "manifest.json").unlink()
    assert embed(*arguments(squares, store, "--append")) == 0
    assert manifest_of(store).counts["seen"] == 15
    assert len(rows_of(store)) == 13
