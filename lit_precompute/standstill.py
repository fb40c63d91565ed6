"""Ends a process in which Python stands still, so that the next attempt can find out which image it was.

Code that keeps the interpreter's lock for ever stops every thread of Python, those that would notice included. A
thread of faulthandler's needs no lock: it is told again and again to end the process later, and when nobody is left to
tell it so, it does.
"""

import faulthandler
import sys
import threading
from types import TracebackType

LIMIT = 600.0  # seconds; parsing a JSON file of some GB keeps the lock for a minute


class StandstillGuard:
    """While the `with` block runs, a standstill of `LIMIT` seconds ends the process with status 1 and a traceback.

    Several may run at a time, in threads of one process. A process that is stopped (Ctrl-Z) for longer looks the same
    when it goes on, and ends.
    """

    _lock = threading.Lock()
    _inside = 0
    _stop = threading.Event()

    def __enter__(self) -> "StandstillGuard":
        guard = StandstillGuard
        with guard._lock:
            guard._inside += 1
            if guard._inside == 1:
                guard._stop = threading.Event()
                threading.Thread(
                    target=_postpone, args=(guard._stop,), name="standstill", daemon=True
                ).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        guard = StandstillGuard
        with guard._lock:
            guard._inside -= 1
            if guard._inside == 0:
                guard._stop.set()


def _postpone(stop: threading.Event) -> None:
    stderr = sys.__stderr__  # that of the process, whatever stands in for it
    if stderr is None:
        return
    try:
        while True:
            faulthandler.dump_traceback_later(LIMIT, exit=True, file=stderr)
            if stop.wait(LIMIT / 20):
                break
    except (ValueError, OSError):  # closed, or no file at all
        return
    faulthandler.cancel_dump_traceback_later()
