"""Storage stumbles: the same call again, a few times, with jitter."""

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

# Waits of 0.2, 0.4 … 3.2 s between them, each ± half, so that many workers do not return together.
ATTEMPTS = 6
FIRST_WAIT = 0.2  # seconds
FINAL: tuple[type[Exception], ...] = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)

T = TypeVar("T")


def with_retries(
    action: Callable[[], T],
    what: str,
    final: tuple[type[Exception], ...] = FINAL,
    attempts: int | None = None,
) -> T:
    """The action's value; storage trouble is tried again, with jitter.

    Args:
        action: may be called several times.
        what: named in the error.
        final: raised at once, as they are.
        attempts: calls in all; None for `ATTEMPTS`.

    Raises:
        OSError: trouble that stayed, or that trying again can not mend (missing file, missing right).
    """
    attempts = attempts or ATTEMPTS
    for attempt in range(attempts):
        try:
            return action()
        except final:
            raise
        except Exception as error:  # clients of object stores raise classes of their own
            if attempt == attempts - 1:
                number = getattr(error, "errno", None) or errno.EIO
                raise OSError(number, f"{what}: {type(error).__name__}: {error}") from error
        time.sleep(FIRST_WAIT * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")
