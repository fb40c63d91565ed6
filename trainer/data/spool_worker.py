"""Parts of a store spooled by processes of their own, which are started anew and never forked.

A worker is `python -m trainer.data.spool_worker`: it is told over its standard input where the store and the building
are, then one number of a part a line, and answers each with a line. It ends when its input does, so none outlives
the run that started it by more than the part in hand.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer.data.pieces import Pieces
from trainer.data.spool_part import Source, first_slots, image_columns, spool_part

_COMMAND = [sys.executable, "-m", "trainer.data.spool_worker"]


def spool_parts(
    source: Source, pieces: Pieces, numbers: Sequence[int], workers: int, done: Callable[[int], None]
) -> None:
    """Spool parts in several processes.

    Args:
        source: where the store is.
        pieces: where the parts go.
        numbers: of the parts.
        workers: how many processes.
        done: called with the number of each part that is there, from several threads, one at a time.

    Raises:
        ValueError: a part is missing or damaged; the first that was found, by name.
        OSError: a worker ended before its work did.
    """
    waiting, lock, stop = list(reversed(numbers)), threading.Lock(), threading.Event()

    def next_number() -> int | None:
        with lock:
            return waiting.pop() if waiting and not stop.is_set() else None

    def tend() -> None:
        try:
            with _started(source, pieces.folder) as worker:
                while (number := next_number()) is not None:
                    _ask(worker, number)
                    with lock:
                        done(number)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers, thread_name_prefix="spool") as threads:
        tended = [threads.submit(tend) for _ in range(workers)]
    for one in tended:
        one.result()


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _started(source: Source, folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    worker = subprocess.Popen(
        _COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
    )
    _tell(worker, f"{source.to_json()}\n{json.dumps(str(folder))}\n")
    return worker


def _ask(worker: "subprocess.Popen[str]", number: int) -> None:
    _tell(worker, f"{number}\n")
    assert worker.stdout is not None
    answer = worker.stdout.readline()
    if not answer:
        raise OSError(
            f"spool: a worker must answer for each part, found that it ended with status {worker.wait()} at part"
            f" {number}. Run the same command again: it goes on with the parts left over; --spool-workers 1 takes"
            " the least memory."
        )
    if (error := json.loads(answer)) is not None:
        raise ValueError(error)


def _tell(worker: "subprocess.Popen[str]", text: str) -> None:
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended: there will be no answer
        worker.stdin.write(text)
        worker.stdin.flush()


def _work() -> None:
    source, folder = Source(**json.loads(sys.stdin.readline())), Path(json.loads(sys.stdin.readline()))
    images = source.open()
    slots, pieces = first_slots(images), Pieces(folder, image_columns(images))
    for line in sys.stdin:
        error = None
        try:
            spool_part(images, int(line), int(slots[int(line)]), pieces)
        except (ValueError, OSError) as trouble:
            error = str(trouble)
        print(json.dumps(error), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # the run that started it says what is to be said
        _work()
