"""A folder of columns is whole or not there, and one process builds it."""

import shutil
import threading
import time

import numpy as np
import pytest

from trainer.data.columns import ColumnWriter, built_at_once, open_columns, open_or_build
from trainer.data.pieces import Pieces, built_in_pieces


def once(value: int):
    return built_at_once(lambda writer: writer.append("x", np.array([value])) or {"is": value})


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def build(writer):
        writer.append("x", np.zeros(3))
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="on fire"):
        open_or_build(tmp_path, "half", built_at_once(build), 0)
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


def test_what_a_killed_build_at_once_left_is_written_over(tmp_path):
    left = tmp_path / ".building-whole"
    left.mkdir()
    (left / "x.bin").write_bytes(b"half")
    assert open_or_build(tmp_path, "whole", once(7), 8)["x"].tolist() == [7]
    assert not left.exists()


def test_one_builds_and_the_other_waits_for_it(tmp_path, capsys):
    begun, built = threading.Event(), []

    def slow(folder):
        begun.set()
        time.sleep(0.3)
        built.append("slow")
        once(1)(folder)

    thread = threading.Thread(target=lambda: open_or_build(tmp_path, "same", slow, 8))
    thread.start()
    begun.wait()
    found = open_or_build(tmp_path, "same", lambda folder: built.append("second"), 8, "the same thing")
    thread.join()
    assert found["x"].tolist() == [1]
    assert built == ["slow"]
    assert "the same thing: process" in capsys.readouterr().err


def test_too_little_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="--spool-dir"):
        open_or_build(tmp_path, "large", lambda folder: pytest.fail("was built"), 101)
    open_or_build(tmp_path, "small", once(1), 100)


def test_what_is_on_the_disk_already_is_not_asked_for_again(tmp_path, monkeypatch):
    (tmp_path / ".building-rest").mkdir(parents=True)
    (tmp_path / ".building-rest" / "x.bin").write_bytes(b"1" * 8192)
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    open_or_build(tmp_path, "rest", once(1), 8192 + 100)


def in_pieces(count: int, calls: list[int], fails_at: int | None = None):
    def write(pieces, missing):
        for number in missing:
            calls.append(number)
            if number == fails_at:
                raise OSError("killed")
            rows = np.full((2, 3), number, np.int32)
            pieces.write(number, {"x": (2 * number, rows)}, {"more": np.arange(number)}, {"number": number})

    def join(pieces, writer: ColumnWriter):
        for number in range(count):
            writer.append("more", pieces.read(number).columns["more"])
        return {"sum": sum(pieces.read(number).facts["number"] for number in range(count))}

    return built_in_pieces({"x": ("<i4", (2 * count, 3))}, count, write, join)


def test_pieces_come_together_in_their_order_and_only_missing_ones_are_written(tmp_path):
    calls: list[int] = []
    with pytest.raises(OSError, match="killed"):
        open_or_build(tmp_path, "p", in_pieces(4, calls, fails_at=2), 0)
    assert open_columns(tmp_path / "p") is None
    columns = open_or_build(tmp_path, "p", in_pieces(4, calls), 0)
    assert calls == [0, 1, 2, 2, 3]
    assert columns["x"][:, 1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert columns["more"].tolist() == [0, 0, 1, 0, 1, 2]
    assert columns.facts == {"sum": 6}
    assert [path.name for path in sorted(columns.path.iterdir())] == ["columns.json", "more.bin", "x.bin"]


def test_a_kill_between_the_last_byte_and_the_name_costs_nothing(tmp_path):
    calls: list[int] = []
    folder = tmp_path / ".building-p"
    folder.mkdir()
    in_pieces(3, calls)(folder)
    open_or_build(tmp_path, "p", in_pieces(3, calls), 0)
    assert calls == [0, 1, 2]


def test_a_half_written_piece_does_not_count(tmp_path):
    pieces = Pieces(tmp_path, {"x": ("<i4", (4, 3))})
    pieces.prepare()
    pieces.write(1, {"x": (2, np.ones((2, 3), np.int32))})
    (tmp_path / "pieces" / ".00000000.npz-123").write_bytes(b"half")
    assert pieces.missing(2) == [0]
