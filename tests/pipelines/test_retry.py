"""`--retry-failed`: what was recovered is read, what was not is explained, and nothing is lost on the way."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import lit_precompute.embed_unit as units
import pipelines.retry
from lit_precompute.sources import SOURCES
from schemas.manifest import ImagesManifest
from schemas.store import open_store

Rows = list[dict[str, Any]]


class Storage:
    """Where images can not be read from for a while.

    Attributes:
        broken: ids of the records that storage fails for.
        read: ids of all records that were handed on with their image.
    """

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.read: list[str] = []

    def around(self, real: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def read_unit(*arguments: Any) -> Iterator[Any]:
            for record in real(*arguments):
                if record.id in self.broken:
                    trouble = ("read", "io", f"503 ({len(self.broken)} broken)")
                    yield replace(record, image=None, problem=trouble)
                else:
                    self.read.append(record.id)
                    yield record

        return read_unit


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Storage:
    found = Storage()
    monkeypatch.setattr(SOURCES["parquet"], "read_unit", found.around(SOURCES["parquet"].read_unit))
    return found


@pytest.fixture
def run(
    tmp_path: Path, colour_rows: Rows, write_rows: Callable[..., Path], embed: Callable[..., int]
) -> Callable[..., int]:
    """Embeds twelve squares, four a unit, one of them no image, into the store of a name."""
    rows = [dict(row) for row in colour_rows]
    rows[5]["image"] = b"no image"
    for part in range(3):
        write_rows(tmp_path / "input" / f"{part}.parquet", rows[4 * part : 4 * part + 4])

    def launch(store: str, *more: str) -> int:
        flags = ["--format", "parquet", "--unit-bytes", "1", "--batch-size", "4", "--decode-threads", "1"]
        tower = [] if "--tower-id" in more else ["--tower-id", "t"]
        places = ["--input", tmp_path / "input", "--output", tmp_path / store]
        return embed(*places, *flags, *tower, *more)

    return launch


@pytest.fixture
def failed(tmp_path: Path, run: Callable[..., int], storage: Storage) -> Path:
    """A finished store without square-02, square-08 and square-09, whose images storage did not give."""
    assert run("whole") == 0
    storage.broken = {"square-02", "square-08", "square-09"}
    assert run("store") == 0
    return tmp_path / "store"


def manifest_of(store: Path) -> ImagesManifest:
    return ImagesManifest.from_json((store / "images" / "t" / "manifest.json").read_bytes())


def vectors_of(store: Path) -> dict[str, list[float]]:
    images = open_store(str(store)).images("t")
    images.check()
    return {
        id: part.embeddings[n, 0].tolist()
        for part in images.iter_joined(["captions"])
        for n, id in enumerate(part.ids.to_pylist())
    }


def failures_of(store: Path) -> list[tuple[str, str, str]]:
    table = pq.read_table(store / "images" / "t" / f"failures{manifest_of(store).tables}.parquet")
    return [(row["id"], row["reason"], row["detail"]) for row in table.to_pylist()]


def verify(store: Path) -> int:
    from pipelines.store.command import main

    return main(["verify", str(store)])


def test_recovered_rows_are_read_and_the_others_explained(
    tmp_path: Path,
    failed: Path,
    run: Callable[..., int],
    storage: Storage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pairs = {path.name: path.read_bytes() for path in (failed / "pairs").iterdir()}
    before = manifest_of(failed)
    assert before.counts["failed"] == 4
    storage.broken = {"square-09"}
    storage.read.clear()
    capsys.readouterr()
    assert run("store", "--retry-failed") == 0
    said = capsys.readouterr().out
    assert "3 failed records of 2 units to retry" in said
    assert "retried    2 of 4 failed records recovered" in said
    after = manifest_of(failed)
    assert {name: after.counts[name] for name in ("seen", "embedded", "failed", "duplicate")} == {
        "seen": 12, "embedded": 10, "failed": 2, "duplicate": 0
    }  # fmt: skip
    assert after.counts["distinct_images"] == before.counts["distinct_images"] + 2
    assert after.failures == {"io": 1, "not_an_image": 1}
    assert [(id, reason) for id, reason, _ in failures_of(failed)] == [
        ("square-05", "not_an_image"), ("square-09", "io")
    ]  # fmt: skip
    assert failures_of(failed)[1][2] == "503 (1 broken)"  # what was found this time
    assert (after.run_id, after.space_id, after.pairs) == (before.run_id, before.space_id, before.pairs)
    assert after.content_id != before.content_id
    whole = vectors_of(tmp_path / "whole")
    assert vectors_of(failed) == {id: vector for id, vector in whole.items() if id != "square-09"}
    assert list(vectors_of(failed))[:4] == [f"square-{n:02}" for n in (0, 1, 3, 2)]  # beside their unit
    assert {path.name: path.read_bytes() for path in (failed / "pairs").iterdir()} == pairs
    assert verify(failed) == 0
    names = {path.name for path in (failed / "images" / "t").iterdir()}
    assert names == {
        *(f"embeddings-g000-0000{n}.parquet" for n in range(3)),
        *(f"embeddings-g000-0000{n}-r001.parquet" for n in (0, 2)),
        *(f"{name}-r001.parquet" for name in ("parts", "failures", "excluded")),
        *("manifest.json", "run.json"),
    }

    storage.broken = set()
    assert run("store", "--retry-failed") == 0
    assert vectors_of(failed) == whole
    assert manifest_of(failed).tables == "-r002"
    assert verify(failed) == 0
    settled = manifest_of(failed)
    assert run("store", "--retry-failed") == 0  # nothing is left that may pass
    assert run("store") == 0
    assert manifest_of(failed) == settled


def test_other_reasons_when_asked(
    failed: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("store", "--retry-failed", "--retry-reasons", "not_an_image") == 0
    assert "1 failed record of 1 unit to retry" in capsys.readouterr().out
    assert [reason for _, reason, _ in failures_of(failed)] == ["io", "not_an_image", "io", "io"]
    assert run("store", "--retry-failed", "--retry-reasons", "bored") == 2
    assert "--retry-reasons: must be of" in capsys.readouterr().err


def test_an_unfinished_store_is_refused(
    tmp_path: Path, run: Callable[..., int], storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("store") == 0
    (tmp_path / "store" / "images" / "t" / "manifest.json").unlink()
    assert run("store", "--retry-failed") == 2
    assert "must be finished" in capsys.readouterr().err


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("die_at", range(6))
def test_death_at_any_step_leaves_the_store_as_it_was_and_a_rerun_completes(
    tmp_path: Path,
    failed: Path,
    run: Callable[..., int],
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
    die_at: int,
) -> None:
    before, vectors = manifest_of(failed), vectors_of(failed)
    storage.broken = set()
    steps = 0

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > die_at:
                raise _Killed
            return real(*arguments, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(units, "leave_receipt", dying(units.leave_receipt))
        patch.setattr(pipelines.retry, "replace", dying(pipelines.retry.replace))
        with pytest.raises(BaseException):  # noqa: B017  (engines wrap it)
            run("store", "--retry-failed")
    assert manifest_of(failed) == before
    assert vectors_of(failed) == vectors
    if die_at % 2:  # what the user runs next
        assert run("store") == 0
        assert manifest_of(failed) == before
        assert not list((failed / "images" / "t").glob("*-r001.parquet"))
    assert run("store", "--retry-failed") == 0
    assert vectors_of(failed) == vectors_of(tmp_path / "whole")
    assert verify(failed) == 0


def test_appending_and_another_tower_after_a_retry(
    tmp_path: Path,
    failed: Path,
    run: Callable[..., int],
    storage: Storage,
    colour_rows: Rows,
    write_rows: Callable[..., Path],
) -> None:
    storage.broken = {"square-09"}
    assert run("store", "--retry-failed") == 0
    write_rows(tmp_path / "input" / "new.parquet", [dict(colour_rows[0], key="new")])
    assert run("store", "--append") == 0
    expected = vectors_of(tmp_path / "whole")
    expected["new"] = expected["square-00"]
    del expected["square-09"]
    assert vectors_of(failed) == expected
    assert verify(failed) == 0
    storage.broken = set()
    assert run("store", "--retry-failed") == 0
    assert manifest_of(failed).tables == "-g001-r002"
    expected["square-09"] = vectors_of(tmp_path / "whole")["square-09"]
    assert vectors_of(failed) == expected
    assert run("store", "--tower-id", "full", "--resize", "full") == 0  # sees images that the first did not
    assert verify(failed) == 0


def test_images_that_lie_elsewhere_are_fetched_only_where_they_are_wanted(
    tmp_path: Path, colour_rows: Rows, embed: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lit_precompute.sources import image_fetch

    for row in colour_rows:
        (tmp_path / f"{row['key']}.png").write_bytes(row["image"])
    lines = [f"{row['key']},{row['key']}.png,{row['caption']}" for row in colour_rows]
    (tmp_path / "list.csv").write_text("id,image,caption\n" + "\n".join(lines) + "\n")
    real, asked = image_fetch._fetch_record, []

    def fetch(wanted: Any, *rest: Any) -> Any:
        asked.append(wanted.record.id)
        if away and wanted.record.id == "square-07":
            return replace(wanted.record, problem=("read", "io", "503"))
        return real(wanted, *rest)

    monkeypatch.setattr(image_fetch, "_fetch_record", fetch)
    flags = ["--format", "listing", "--id-column", "id", "--tower-id", "t", "--decode-threads", "1"]
    places = ["--input", tmp_path / "list.csv", "--output", tmp_path / "store"]
    away = True
    assert embed(*places, *flags) == 0
    assert manifest_of(tmp_path / "store").failures == {"io": 1}
    asked.clear()
    away = False
    assert embed(*places, *flags, "--retry-failed") == 0
    assert asked == ["square-07"]
    assert len(vectors_of(tmp_path / "store")) == 12
