"""What is told of a long preparation: each state once, the last one included."""

import pytest

from trainer.data import progress
from trainer.data.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_last_state_is_told_once(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    told = Progress("Embedding captions", 40)
    told.skip(10)
    for _ in range(3):
        clock[0] += 11
        told.add(10)
    told.finish()
    assert capsys.readouterr().err.splitlines() == [
        "Embedding captions: 20 of 40 (1/s, 0:00:22 left)",
        "Embedding captions: 30 of 40 (1/s, 0:00:11 left)",
        "Embedding captions: 40 of 40 (1/s)",
    ]


def test_on_a_terminal_nothing_of_a_longer_line_is_left(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    told = Progress("Spooling", 20)
    clock[0] += 1
    told.add(10)
    told.add(10)
    told.finish()
    first, last = capsys.readouterr().err.removesuffix("\n").split("\r")
    assert len(last) == len(first)
    assert last.rstrip() == "Spooling: 20 of 20 (20/s)"
