"""Parts and receipts that are not what they were: mended by the next run or refused, never served."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import lit_precompute.embed_unit as units
import pipelines.finish.finalise
from lit_precompute.parts import publish_part
from schemas.store import open_store

Rows = list[dict[str, Any]]


def files_of(store: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(p for p in store.rglob("*") if p.is_file() and p.name != "run.json"):
        name = str(path.relative_to(store))
        found[name] = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_bytes()
    return found


@pytest.fixture
def run(
    tmp_path: Path, colour_rows: Rows, write_rows: Callable[..., Path], embed: Callable[..., int]
) -> Callable[..., int]:
    """Embeds twelve squares, four a unit, into the store of a name."""
    for part in range(3):
        write_rows(tmp_path / "input" / f"{part}.parquet", colour_rows[4 * part : 4 * part + 4])

    def launch(store: str, *more: str) -> int:
        flags = ["--format", "parquet", "--tower-id", "t", "--unit-bytes", "1", "--batch-size", "4"]
        return embed("--input", tmp_path / "input", *flags, "--output", tmp_path / store, *more)

    return launch


@pytest.fixture
def whole(tmp_path: Path, run: Callable[..., int], stand_in_tower: list[int]) -> dict[str, Any]:
    """The files of a store to which nothing happened."""
    assert run("whole") == 0
    stand_in_tower.clear()
    return files_of(tmp_path / "whole")


def flip(path: Path) -> None:
    """Changes bytes in the middle of the first column; the size stays."""
    data = bytearray(path.read_bytes())
    data[20:30] = bytes(byte ^ 0xFF for byte in data[20:30])
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("part", ["pairs/pairs-g000-00001", "images/t/embeddings-g000-00001"])
def test_a_part_that_changes_after_its_receipt_is_not_named_by_a_manifest(
    tmp_path: Path,
    run: Callable[..., int],
    whole: dict[str, Any],
    stand_in_tower: list[int],
    damage: Callable[[Path], None],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = units.leave_receipt

    def then_damage(job: Any, receipt: Any) -> Any:
        left = real(job, receipt)
        if receipt.unit == "g000-00001":
            damage(tmp_path / "store" / f"{part}.parquet")
        return left

    with monkeypatch.context() as patch:
        patch.setattr(units, "leave_receipt", then_damage)
        assert run("store") == 3
    assert "unit g000-00001: " in capsys.readouterr().out
    assert not (tmp_path / "store" / "images" / "t" / "manifest.json").exists()
    stand_in_tower.clear()
    assert run("store") == 0
    assert len(stand_in_tower) == 1  # that unit alone
    assert files_of(tmp_path / "store") == whole


def test_receipts_without_parts_and_parts_without_receipts(
    tmp_path: Path,
    run: Callable[..., int],
    whole: dict[str, Any],
    stand_in_tower: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_room(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:  # everything is done but the last step
        patch.setattr(pipelines.finish.finalise, "_write", no_room)
        assert run("store") == 3
    assert "No space left on device" in capsys.readouterr().err
    folder = tmp_path / "store" / "images" / "t"
    assert len(list((folder / "_receipts").glob("*.json"))) == 3
    (folder / "embeddings-g000-00000.parquet").unlink()
    (folder / "_receipts" / "g000-00001.json").unlink()
    (folder / "_receipts" / "g000-00002.json").write_text('{"unit": "g000-0')
    stand_in_tower.clear()
    assert run("store") == 0
    assert len(stand_in_tower) == 1  # only where the part was gone
    assert files_of(tmp_path / "store") == whole


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_finished_store_whose_part_is_gone_or_cut_short_is_mended(
    tmp_path: Path,
    run: Callable[..., int],
    whole: dict[str, Any],
    stand_in_tower: list[int],
    damage: Callable[[Path], None],
) -> None:
    assert run("store") == 0
    damage(tmp_path / "store" / "images" / "t" / "embeddings-g000-00002.parquet")
    with pytest.raises(ValueError, match=r"embeddings-g000-00002\.parquet"):
        open_store(f"{tmp_path}/store").images("t").check()
    stand_in_tower.clear()
    assert run("store") == 0
    assert len(stand_in_tower) == 1
    assert files_of(tmp_path / "store") == whole


def test_a_zombie_that_publishes_late_changes_nothing(
    tmp_path: Path, run: Callable[..., int], whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that was held up for hours wakes after the store was finished by another."""
    held: list[Any] = []
    real = units.publish_unit

    def hold(*arguments: Any) -> Any:
        held.append(arguments)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(units, "publish_unit", hold)
        assert run("store") == 0
    for arguments in held:
        real(*arguments)
    assert files_of(tmp_path / "store") == whole


def test_a_zombie_that_read_something_else_never_replaces_a_part_of_a_finished_store(
    tmp_path: Path, run: Callable[..., int], whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Any] = []
    real = units.publish_unit

    def hold(job: Any, unit: Any, tally: Any, rows: list[Any]) -> Any:
        held.append((job, unit, tally, [(id, digest, vector * 2) for id, digest, vector in rows]))
        return real(job, unit, tally, rows)

    with monkeypatch.context() as patch:
        patch.setattr(units, "publish_unit", hold)
        assert run("store") == 0
    for arguments in held:
        with pytest.raises(units.RefusedError, match="finished by another attempt"):
            real(*arguments)
    assert files_of(tmp_path / "store") == whole


@pytest.mark.parametrize("finished", [True, False])
def test_what_a_run_that_died_left_is_taken_away(
    tmp_path: Path, run: Callable[..., int], whole: dict[str, Any], finished: bool
) -> None:
    assert run("store") == 0
    folder, dead = tmp_path / "store" / "images" / "t", 2**22 + 1  # above any process number of Linux
    lease = f'{{"token": "x", "host": "{os.uname().nodename}", "pid": {dead}, "seen": 0}}'
    (folder / "lease.json").write_text(lease)
    (tmp_path / "store" / "lease.json").write_text(lease)
    (folder / "_receipts").mkdir()
    (folder / "_receipts" / "g000-00001.json").write_text("{}")
    for place in (tmp_path / "store", tmp_path / "store" / "pairs", folder, folder / "_receipts"):
        (place / f".tmp-{os.uname().nodename}~{dead}~abc~file").write_text("half")
    if not finished:
        (folder / "manifest.json").unlink()
    assert run("store") == 0
    assert files_of(tmp_path / "store") == whole
    assert not (folder / "_receipts").exists()


def test_a_live_launch_on_a_finished_store_is_not_disturbed(
    tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    from lit_precompute.lease import Lease
    from schemas.storage import Folder

    assert run("store") == 0
    folder = tmp_path / "store" / "images" / "t"
    with Lease(Folder(str(folder))):
        (folder / "_receipts").mkdir()
        assert run("store") == 2
        assert "only one launch may work here" in capsys.readouterr().err
        assert (folder / "_receipts").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_part_that_can_not_be_written_is_named_with_what_to_do(
    tmp_path: Path,
    run: Callable[..., int],
    whole: dict[str, Any],
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = os.fsync

    def refuse(handle: int) -> None:
        if "embeddings-g000-00001" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(number, os.strerror(number))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        assert run("store") == 3
    said = capsys.readouterr().out
    assert (
        f"store/images/t/embeddings-g000-00001.parquet must be written, found: {os.strerror(number)}." in said
    )
    assert (
        "Give the right" if number == errno.EACCES else "Make room and run the same command again"
    ) in said
    assert list((tmp_path / "store").rglob(".tmp-*")) == []
    assert run("store") == 0
    assert files_of(tmp_path / "store") == whole


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 3), (errno.EACCES, 2)])
def test_a_store_that_can_not_be_begun(
    tmp_path: Path,
    run: Callable[..., int],
    number: int,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        assert run("store") == status
    assert f"{tmp_path}/store" in capsys.readouterr().err
    assert run("store") == 0


def test_an_input_that_vanishes_while_it_is_worked_on(
    tmp_path: Path,
    run: Callable[..., int],
    whole: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real, file = units._embed, tmp_path / "input" / "1.parquet"

    def vanish(job: Any, unit: Any, *rest: Any) -> Any:
        if unit.name == "g000-00001":
            file.rename(tmp_path / "away")
        return real(job, unit, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(units, "_embed", vanish)
        assert run("store") == 3
    said = capsys.readouterr().out
    assert "unit g000-00001: FileNotFoundError" in said
    assert "1.parquet" in said
    assert run("store") == 2  # not the input it was planned with
    assert "1.parquet: planned, no longer there" in capsys.readouterr().err
    (tmp_path / "away").rename(file)
    assert run("store") == 0
    assert files_of(tmp_path / "store") == whole


def test_weights_that_change_between_runs_are_refused(
    tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("store") == 0
    before = files_of(tmp_path / "store")
    capsys.readouterr()
    from pipelines.embed import main

    flags = ["--format", "parquet", "--tower-id", "t", "--unit-bytes", "1", "--tower", "stand-in"]
    places = ["--input", f"{tmp_path}/input", "--output", f"{tmp_path}/store", "--checkpoint", "random:1"]
    assert main([*flags, *places]) == 2
    said = capsys.readouterr().err
    assert "tower.weights: the store has 'random:0', this command gives 'random:1'" in said
    assert files_of(tmp_path / "store") == before


def test_weights_that_change_while_workers_start_are_refused(
    tmp_path: Path,
    run: Callable[..., int],
    whole: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import pipelines.graph

    real = pipelines.graph.load_tower
    with monkeypatch.context() as patch:
        patch.setattr(
            pipelines.graph,
            "load_tower",
            lambda config, options: real(replace(config, checkpoint="random:1"), options),
        )
        assert run("store") == 2
    said = capsys.readouterr().out
    assert (
        "--checkpoint: the worker must load the weights the job was planned with (random:0…), found random:1"
        in said
    )
    assert run("store") == 0
    assert files_of(tmp_path / "store") == whole


def test_parts_are_replaced_while_the_store_is_not_finished(tmp_path: Path) -> None:
    import pyarrow as pa

    from schemas.storage import Folder

    folder = Folder(str(tmp_path))
    publish_part(folder, "a.parquet", "g000-00000", pa.table({"id": ["a"]}), {})
    publish_part(folder, "a.parquet", "g000-00000", pa.table({"id": ["b"]}), {})
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [{"id": "b"}]
