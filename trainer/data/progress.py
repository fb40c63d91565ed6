"""A line on standard error that says how far a long preparation is."""

import sys
import time


class Progress:
    """Counts up to a total: redraws one line on a terminal, writes a line every ten seconds elsewhere."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self._skipped = self._width = 0
        self._terminal = sys.stderr.isatty()
        self._start = self._shown = time.monotonic()

    def skip(self, count: int) -> None:
        """Note `count` items that an earlier run finished; they count for nothing in the rate."""
        self.done += count
        self._skipped += count

    def add(self, count: int) -> None:
        """Note `count` more finished items, and show it when it is time to."""
        self.done += count
        # The last state is for `finish` to show, once.
        if self.done < self.total and time.monotonic() - self._shown >= (0.2 if self._terminal else 10.0):
            self._show(end="\r" if self._terminal else "\n")

    def finish(self) -> None:
        """Show the last state and end the line."""
        self._show(end="\n")

    def _show(self, end: str) -> None:
        self._shown = time.monotonic()
        rate = (self.done - self._skipped) / max(self._shown - self._start, 1e-9)
        left = (
            ""
            if self.done >= self.total or rate == 0
            else f", {_clock((self.total - self.done) / rate)} left"
        )
        line = f"{self.label}: {self.done:,} of {self.total:,} ({rate:,.0f}/s{left})"
        # On a terminal a longer line may stand there already.
        print(line.ljust(self._width) if self._terminal else line, end=end, file=sys.stderr, flush=True)
        self._width = len(line)


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
