"""A line on standard error that says how far a long preparation is."""

import sys
import time


class Progress:
    """Counts up to a total: redraws one line on a terminal, writes a line every ten seconds elsewhere."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self._terminal = sys.stderr.isatty()
        self._start = self._shown = time.monotonic()

    def add(self, count: int) -> None:
        """Note `count` more finished items, and show it when it is time to."""
        self.done += count
        if time.monotonic() - self._shown >= (0.2 if self._terminal else 10.0):
            self._show(end="\r" if self._terminal else "\n")

    def finish(self) -> None:
        """Show the last state and end the line."""
        self._show(end="\n")

    def _show(self, end: str) -> None:
        self._shown = time.monotonic()
        rate = self.done / max(self._shown - self._start, 1e-9)
        print(
            f"{self.label}: {self.done:,} of {self.total:,} ({rate:,.0f}/s)",
            end=end,
            file=sys.stderr,
            flush=True,
        )
