"""Every way a command can end."""

import sys
from collections.abc import Callable

import pytest

from schemas.exit_status import exit_status


def raising(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "status", "said"),
    [
        (lambda: 3, 3, ""),
        (raising(ValueError("must be so, found otherwise")), 2, "lit-x: must be so, found otherwise\n"),
        (
            raising(FileNotFoundError(2, "No such file", "a.txt")),
            2,
            "lit-x: [Errno 2] No such file: 'a.txt'\n",
        ),
        (lambda: sys.exit(0), 0, ""),
        (lambda: sys.exit("said already"), 2, ""),
    ],
)
def test_status_and_words(
    work: Callable[[], int], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("lit-x", work) == status
    assert capsys.readouterr().err == said


def test_a_bug_keeps_its_stack() -> None:
    with pytest.raises(KeyError):
        exit_status("lit-x", raising(KeyError("ours")))
