"""Trying again: how often, how long between, and what is not tried again."""

import errno
from collections.abc import Callable

import pytest

from schemas import retries
from schemas.retries import ATTEMPTS, FIRST_WAIT, with_retries


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of every wait, none of which is waited for."""
    waited: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", waited.append)
    return waited


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[int]]:
    calls: list[int] = []

    def action() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "value"

    return action, calls


def test_a_bounded_number_of_calls_with_doubling_waits_and_jitter(waits: list[float]) -> None:
    rounds = []
    for _ in range(20):
        action, calls = failing(100, RuntimeError("503"))
        waits.clear()
        with pytest.raises(OSError, match=r"a/b\.parquet: RuntimeError: 503") as raised:
            with_retries(action, "a/b.parquet")
        assert raised.value.errno == errno.EIO
        assert (len(calls), len(waits)) == (ATTEMPTS, ATTEMPTS - 1)
        for attempt, wait in enumerate(waits):
            assert 0.5 <= wait / (FIRST_WAIT * 2**attempt) <= 1.5
        rounds.append(tuple(waits))
    assert len(set(rounds)) == 20  # many workers do not return together
    assert sum(FIRST_WAIT * 2**attempt * 1.5 for attempt in range(ATTEMPTS - 1)) < 10


@pytest.mark.parametrize("times", [1, ATTEMPTS - 1])
def test_the_value_once_it_works(waits: list[float], times: int) -> None:
    action, calls = failing(times, ConnectionResetError("dropped"))
    assert with_retries(action, "x") == "value"
    assert len(calls) == times + 1


@pytest.mark.parametrize("error", [FileNotFoundError("x"), PermissionError("x"), FileExistsError("x")])
def test_what_trying_again_can_not_mend_is_raised_at_once(waits: list[float], error: Exception) -> None:
    action, calls = failing(1, error)
    with pytest.raises(type(error)):
        with_retries(action, "x")
    assert (len(calls), waits) == (1, [])


def test_the_number_of_the_error_is_kept(waits: list[float]) -> None:
    action, _ = failing(100, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left") as raised:
        with_retries(action, "x")
    assert raised.value.errno == errno.ENOSPC
