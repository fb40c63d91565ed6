"""How far a pass over a long store is: a line on stderr now and then, with rate and time left."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

TERMINAL_SECONDS = 1.0
LOG_SECONDS = 15.0


class Meter:
    """Counts bytes of parts as they are done; prints on a terminal every second, elsewhere every 15 s.

    A pass that is over before that prints nothing.

    Args:
        what: the word before the figures.
        stream: where to print; default stderr.
        clock: seconds, ever rising.

    Attributes:
        total: bytes in all, once they are known.
    """

    def __init__(
        self, what: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total = 0
        self._what, self._done = what, 0
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._every = TERMINAL_SECONDS if self._live else LOG_SECONDS
        self._clock = clock
        self._started = self._said = clock()
        self._shown = False

    def add(self, size: int) -> None:
        self._done += size
        now = self._clock()
        if now - self._said >= self._every:
            self._said = now
            self._print(now - self._started)

    def clear(self) -> None:
        """Takes the live line off the terminal, so that something else can be printed."""
        if self._shown and self._live:
            print("\r\x1b[2K", end="", file=self._stream, flush=True)
            self._shown = False

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()

    def _print(self, seconds: float) -> None:
        rate = self._done / seconds
        left = max(0, self.total - self._done) / rate if rate else 0.0
        line = (
            f"{self._what}  {size_text(self._done)} of {size_text(self.total)}  "
            f"{size_text(rate)}/s  {duration_text(left)} left"
        )
        if self._live:
            print(f"\r\x1b[2K{line}", end="", file=self._stream, flush=True)
        else:
            print(line, file=self._stream, flush=True)
        self._shown = True


def size_text(count: float) -> str:
    """Bytes in powers of a thousand.

    >>> size_text(999), size_text(1_536_000), size_text(2.5e12)
    ('999 B', '1.5 MB', '2.5 TB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000:
            return f"{count:,.0f} B" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} PB"


def duration_text(seconds: float) -> str:
    """Days and hours, hours and minutes, minutes and seconds, or seconds.

    >>> duration_text(12), duration_text(200), duration_text(3900), duration_text(180_000)
    ('12 s', '3 m 20 s', '1 h 05 m', '2 d 02 h')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days:,} d {hours:02} h"
    if hours:
        return f"{hours} h {minutes:02} m"
    return f"{minutes} m {rest:02} s" if minutes else f"{rest} s"
