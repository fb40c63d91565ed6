"""What the spool lays out is what the store holds, also after a kill, and one run builds it for all."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from schemas.digests import caption_key
from trainer.data import spool
from trainer.data.columns import open_columns
from trainer.data.spool import default_spool_dir, spool_images, texts
from trainer.data.stores import open_stores

REPO = Path(__file__).resolve().parents[3]


def test_images_without_a_usable_caption_are_counted_and_leave_a_hole(columns):
    assert columns.facts["images"] == 4
    assert columns.facts["without_caption"] == 2
    assert columns.facts["captions"] == 5
    # Slots: a, ü and a hole; d, f and a hole.
    assert columns["caption_offsets"].tolist() == [0, 2, 3, 3, 4, 5, 5]
    assert columns["embeddings"].dtype == np.float16
    np.testing.assert_array_equal(columns["embeddings"][3], [[10, 11, 12], [-10, -11, -12]])
    assert texts(columns, "id", np.arange(6)) == ["a", "ü", "", "d", "f", ""]
    captions = texts(columns, "caption", np.arange(5))
    assert captions == ["a cat", "one sleeping cat", "größer {}", "A  CAT", "dogs"]
    assert columns["caption_key"].tolist() == [caption_key(text) for text in captions]
    assert columns["image_key"][3] == columns["image_key"][4]
    assert columns["image_key"][0] != columns["image_key"][1]


def test_kinds_and_languages_are_numbered_over_all_parts(write_store, row, tmp_path):
    units = [
        [row("a", [[1, 2]], (("x", "title", "en"), ("y", "tags", None)))],
        [row("b", [[1, 3]], (("z", "description", "de"), ("w", "title", "en")))],
    ]
    (store,) = open_stores([write_store(units)], None, {})
    columns = spool_images(store.images, store.source, tmp_path)
    kinds, langs = columns.facts["kinds"], columns.facts["langs"]
    assert [kinds[k] for k in columns["caption_kind"]] == ["title", "tags", "description", "title"]
    assert [langs[k] for k in columns["caption_lang"]] == ["en", "", "de", "en"]


def test_a_spool_is_built_once_and_again_when_a_file_was_cut(opened, tmp_path, monkeypatch):
    root = tmp_path / "spool"
    first = spool_images(opened.images, opened.source, root)
    with monkeypatch.context() as patched:
        patched.setattr(opened.images, "joined", lambda *_, **__: pytest.fail("read the store again"))
        spool_images(opened.images, opened.source, root)
    damaged = first.path / "embeddings.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert open_columns(first.path) is None
    again = spool_images(opened.images, opened.source, root)
    np.testing.assert_array_equal(again["embeddings"][0], [[1, 2, 3], [-1, -2, -3]])


def test_parts_spooled_by_several_processes_are_the_same(opened, tmp_path):
    one = spool_images(opened.images, opened.source, tmp_path / "one", workers=1)
    two = spool_images(opened.images, opened.source, tmp_path / "two", workers=2)
    assert one.facts == two.facts
    assert one.arrays.keys() == two.arrays.keys()
    for name in one.arrays:
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("folder", ["images/tower", "pairs"])
def test_a_damaged_part_is_named_and_mended_by_the_next_run(opened, tmp_path, workers, folder):
    """One byte in the middle: the size is right, the digest is not."""
    (part,) = (Path(opened.source.store) / folder).glob("*-g000-00001.parquet")
    whole = part.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    part.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"{part.name}: its bytes must have sha256"):
        spool_images(opened.images, opened.source, tmp_path / "spool", workers)
    part.write_bytes(whole)
    assert spool_images(opened.images, opened.source, tmp_path / "spool", workers).facts["images"] == 4


def test_a_vanished_part_is_named_before_anything_is_read(opened, tmp_path, monkeypatch):
    part = Path(opened.images.folder.at(opened.images.parts[1].name))
    part.unlink()
    monkeypatch.setattr(opened.images, "joined", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(ValueError, match=part.name):
        spool_images(opened.images, opened.source, tmp_path / "spool")


def test_a_killed_spool_goes_on_part_by_part(opened, tmp_path, monkeypatch):
    """As if killed at the second part; what the first left is not read again."""
    real, read = spool.spool_part, []

    def part(images, number, first, pieces):
        read.append(number)
        if number == 1 and len(read) == 2:
            raise KeyboardInterrupt
        real(images, number, first, pieces)

    monkeypatch.setattr(spool, "spool_part", part)
    with pytest.raises(KeyboardInterrupt):
        spool_images(opened.images, opened.source, tmp_path / "spool")
    columns = spool_images(opened.images, opened.source, tmp_path / "spool")
    assert read == [0, 1, 1]
    assert texts(columns, "id", np.array([0, 1, 3, 4])) == ["a", "ü", "d", "f"]
    assert not list((tmp_path / "spool").glob(".building-*"))


IN_PROCESSES = """
import sys, time
from pathlib import Path
from trainer.data import spool
from trainer.data.stores import open_stores
def add(self, count):
    print("one part", flush=True)
    time.sleep(60)
spool.Progress.add = add
(opened,) = open_stores([sys.argv[1]], None, {})
spool.spool_images(opened.images, opened.source, Path(sys.argv[2]), 2)
"""
SPOOL = """
import sys, time
from pathlib import Path
from trainer.data import spool, spool_part
from trainer.data.stores import open_stores
store, root, slow = sys.argv[1:]
real = spool.spool_part
def part(images, number, first, pieces):
    if number == 2 and float(slow):
        print("at the third", flush=True)
        time.sleep(float(slow))
    real(images, number, first, pieces)
    print("read", number, flush=True)
spool.spool_part = part
(opened,) = open_stores([store], None, {})
print(spool.spool_images(opened.images, opened.source, Path(root), 1).facts["images"])
"""


def start(store: str, root: Path, slow: float, script: str = SPOOL) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, store, str(root), str(slow)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )


@pytest.fixture
def four_parts(write_store, row) -> str:
    return write_store([[row(f"{n}-{i}", [[n, i]], (f"{n} {i}",)) for i in range(3)] for n in range(4)])


def test_kill_9_costs_only_the_part_in_hand(four_parts, tmp_path):
    killed = start(four_parts, tmp_path / "spool", 60)
    assert killed.stdout is not None
    while "at the third" not in killed.stdout.readline():
        pass
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    again, _ = start(four_parts, tmp_path / "spool", 0).communicate(timeout=60)
    assert again.split("\n") == ["read 2", "read 3", "12", ""]
    (store,) = open_stores([four_parts], None, {})
    columns = spool_images(store.images, store.source, tmp_path / "spool")
    assert texts(columns, "id", np.arange(12)) == [f"{n}-{i}" for n in range(4) for i in range(3)]
    np.testing.assert_array_equal(columns["embeddings"][:, 0], [[n, i] for n in range(4) for i in range(3)])


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_with_the_run_that_started_them_and_what_they_did_stays(four_parts, tmp_path):
    killed = start(four_parts, tmp_path / "spool", 0, IN_PROCESSES)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "one part\n"
    workers = children(killed.pid)
    assert len(workers) == 2
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()  # returns when they have closed what they inherited
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            break
        time.sleep(0.1)
    else:
        pytest.fail("a worker is left")
    again, _ = start(four_parts, tmp_path / "spool", 0).communicate(timeout=60)
    assert again.endswith("\n12\n")
    assert again.count("read") < 4


def test_two_runs_at_once_build_one(four_parts, tmp_path):
    first = start(four_parts, tmp_path / "spool", 1.5)
    assert first.stdout is not None
    while "at the third" not in first.stdout.readline():
        pass
    second, said = start(four_parts, tmp_path / "spool", 0).communicate(timeout=60)
    assert second == "12\n"  # it read no part
    assert f"process {first.pid} on" in said
    assert "waiting" in said
    first.communicate()
    assert first.returncode == 0


def test_a_worker_that_dies_is_said_with_what_to_do(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.data.spool_worker._COMMAND", [sys.executable, "-c", "raise SystemExit(9)"])
    with pytest.raises(OSError, match="status 9"):
        spool_images(opened.images, opened.source, tmp_path / "spool", workers=2)


def test_too_little_disk_is_said_before_anything_is_read(opened, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(opened.images, "joined", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(ValueError, match="--spool-dir"):
        spool_images(opened.images, opened.source, tmp_path / "spool")


def test_a_store_without_captions_is_refused(write_store, row, tmp_path):
    (store,) = open_stores([write_store([[row("a", [[1, 2, 3]], ())]])], None, {})
    with pytest.raises(ValueError, match="--caption-column"):
        spool_images(store.images, store.source, tmp_path / "spool")
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [".locks"]


def test_the_default_folder_follows_the_desktop_convention(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_spool_dir() == Path("/somewhere/lit-precompute")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_spool_dir() == Path.home() / ".cache" / "lit-precompute"


def test_progress_tells_rate_and_time_left(capsys, monkeypatch):
    from trainer.data.progress import Progress

    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress("spooling", 1000)
    progress.skip(400)
    now[0] += 20
    progress.add(200)
    assert capsys.readouterr().err == "spooling: 600 of 1,000 (10/s, 0:00:40 left)\n"
