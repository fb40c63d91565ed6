"""Receipts and heartbeats as they land: units, images, images/s, failures, time left."""

import sys
import threading
import time
from contextlib import suppress
from types import TracebackType

from lit_precompute.job import Job, finished, standing_manifest
from lit_precompute.plan import Plan
from lit_precompute.publish import remove, replace
from lit_precompute.receipt import Receipt

BEAT_SECONDS = 2.0
TERMINAL_SECONDS = 1.0
LOG_SECONDS = 15.0


class Heartbeat:
    """Says how far a unit is, beside the receipts, while it is worked on.

    Only on local stores: there a small file every two seconds costs nothing. Elsewhere progress moves a unit at a
    time.
    """

    def __init__(self, job: Job, unit_name: str) -> None:
        self._folder = job.receipts
        self._name = f"{unit_name}.heartbeat"
        self._local = self._folder.is_local
        self._next = time.monotonic() + BEAT_SECONDS

    def beat(self, seen: int) -> None:
        if self._local and time.monotonic() >= self._next:
            with suppress(OSError):  # what is wrong with the disk, the part will say
                replace(self._folder, self._name, str(seen).encode())
            self._next = time.monotonic() + BEAT_SECONDS

    def __enter__(self) -> "Heartbeat":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._local:
            with suppress(OSError):
                remove(self._folder, self._name)


class Progress:
    """Watches the receipts folder from a thread and prints a line: live on a terminal, now and then elsewhere.

    Receipts are what a finished unit leaves, so this works for every engine, however far away its workers are.
    """

    def __init__(self, job: Job, plan: Plan) -> None:
        self._job = job
        self._bytes = {unit.name: sum(one.size for one in unit.slices) for unit in plan.units}
        self._total = len(plan.units)
        self._live = sys.stderr.isatty()
        # Elsewhere a look is a listing of all receipts, a request for every thousand.
        self._pause = TERMINAL_SECONDS if self._live and job.receipts.is_local else LOG_SECONDS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._known: dict[str, Receipt] = {}
        self._started = time.monotonic()
        self._at_start = (0, 0)
        self._counts_before: dict[str, int] = {}

    def __enter__(self) -> "Progress":
        with suppress(OSError):
            self._at_start = self._done()
            if (manifest := standing_manifest(self._job)) is not None:
                self._counts_before = dict(manifest.counts)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if self._live:
            with suppress(OSError):
                print(f"\r\x1b[2K{self._last_line()}", file=sys.stderr, flush=True)

    def _watch(self) -> None:
        while not self._stop.wait(self._pause):
            try:
                line = self._line()
            except OSError:  # a receipt was being replaced, or storage stumbled: the next look will do
                continue
            print(
                f"\r\x1b[2K{line}" if self._live else line,
                end="" if self._live else "\n",
                file=sys.stderr,
                flush=True,
            )

    def _line(self) -> str:
        images, done_bytes = self._done()
        failed = sum(len(receipt.failures) for receipt in self._known.values())
        line = self._counted(len(self._known), images, failed)
        new_bytes, left = done_bytes - self._at_start[1], sum(self._bytes.values()) - done_bytes
        if new_bytes > 0:
            seconds = time.monotonic() - self._started
            line += f"  {_duration(left * seconds / new_bytes)} left"
        return line

    def _last_line(self) -> str:
        """From the manifest once there is one: the engine's last step has taken the receipts down by then."""
        if (manifest := finished(self._job)) is None:
            return self._line()
        new = {name: count - self._counts_before.get(name, 0) for name, count in manifest.counts.items()}
        return self._counted(self._total, new["seen"], new["failed"])

    def _counted(self, units: int, images: int, failed: int) -> str:
        rate = (images - self._at_start[0]) / max(time.monotonic() - self._started, 1e-9)
        return f"{units}/{self._total} units  {images:,} images  {rate:,.1f} images/s  {failed:,} failed"

    def _done(self) -> tuple[int, int]:
        """Images seen, those of unfinished units included, and bytes of input that finished units had."""
        folder, beating = self._job.receipts, 0
        for name in folder.sizes():
            unit, _, kind = name.rpartition(".")
            try:
                if kind == "json" and unit not in self._known:
                    self._known[unit] = Receipt.from_json(folder.read(name))
                elif kind == "heartbeat":
                    beating += int(folder.read(name))
            except (ValueError, FileNotFoundError):  # being written, or just taken down
                continue
        images = sum(receipt.seen for receipt in self._known.values()) + beating
        return images, sum(self._bytes.get(unit, 0) for unit in self._known)


def _duration(seconds: float) -> str:
    """1 h 05 m, 3 m 20 s, 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} m"
    return f"{minutes} m {rest:02} s" if minutes else f"{rest} s"
