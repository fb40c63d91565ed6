"""A file appears under its name whole, once, or not at all."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from lit_precompute.publish import TEMPORARY, publish, remove, replace, sweep
from schemas.storage import Folder


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "f") if request.param == "local" else f"memory://{tmp_path}")


def test_the_first_one_wins(folder: Folder) -> None:
    assert publish(folder, "part", b"first")
    assert not publish(folder, "part", b"second")
    assert folder.read("part") == b"first"
    assert set(folder.sizes()) == {"part"}


def test_replace_is_for_what_must_change(folder: Folder) -> None:
    replace(folder, "part", b"first")
    replace(folder, "part", b"second")
    assert folder.read("part") == b"second"
    remove(folder, "part")
    remove(folder, "part")
    assert folder.sizes() == {}


def test_of_many_at_once_exactly_one_wins(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    start, won = threading.Barrier(8), []

    def attempt(name: str) -> None:
        start.wait()
        if publish(folder, "part", name.encode() * 1000):
            won.append(name)

    threads = [threading.Thread(target=attempt, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert folder.read("part") == won[0].encode() * 1000


def test_nothing_stands_under_the_name_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        publish(Folder(str(tmp_path)), "part", b"data")
    assert list(tmp_path.iterdir()) == []


def test_sweep_takes_the_leftovers_of_the_dead_alone(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    host = os.uname().nodename
    dead = tmp_path / f"{TEMPORARY}{host}~{process.pid}~ab~part"
    alive = tmp_path / f"{TEMPORARY}{host}~{os.getpid()}~ab~part"
    elsewhere = tmp_path / f"{TEMPORARY}another-{host}~1~ab~part"
    for path in (dead, alive, elsewhere, tmp_path / "part"):
        path.write_bytes(b"x")
    sweep(Folder(str(tmp_path)))
    assert sorted(tmp_path.iterdir()) == sorted([alive, elsewhere, tmp_path / "part"])
