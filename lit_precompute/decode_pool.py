"""Threads that decode ahead of the device, in order, and survive an image that hangs."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from types import TracebackType

from lit_precompute.decode import DecodeLimits
from lit_precompute.decode_process import DecodeProcess
from lit_precompute.pixels import pixels_of
from lit_precompute.prepare import Prepared, prepare
from lit_precompute.preprocess import Preprocess
from lit_precompute.records import Record
from lit_precompute.views import Views

log = logging.getLogger(__name__)

AHEAD = 32  # records decoded ahead of the device; 32 photographs of 12 MP are about 1.2 GB while they decode
LOOK_SECONDS = 1.0  # between looks at how long a record has been in hand


@dataclass
class _Task:
    """A record on its way through the pool.

    Attributes:
        started: when a thread took it in hand, if it is decoded in this process.
    """

    record: Record
    done: Future[Prepared] = field(default_factory=Future)
    started: float | None = None


class DecodePool:
    """Decodes ahead of the device; use with `with`.

    Images are decoded in threads of this process. One that takes longer than `timeout` is tried once more in a process
    of its own, and so is everything after it; its thread, which nothing can end, is left behind. With `isolated`
    each thread has its process from the start. See `DecodeProcess` for what becomes of an image that ends it.

    Args:
        threads: how many images at a time.
        preprocess: RGB image -> the tower's input.
        limits: what one image may cost.
        timeout: seconds one image may take.
        isolated: decode in processes from the start.
        views: V, of each image.
    """

    def __init__(
        self,
        threads: int,
        preprocess: Preprocess,
        limits: DecodeLimits,
        timeout: float,
        isolated: bool = False,
        views: int = 1,
    ) -> None:
        self._new_process = partial(DecodeProcess, preprocess, limits, timeout, views)
        self._decode_here = partial(pixels_of, views=Views(preprocess, views), limits=limits)
        self._timeout, self._isolated = timeout, isolated
        self._queue: SimpleQueue[_Task | None] = SimpleQueue()
        self._wanted = threads
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "DecodePool":
        for _ in range(self._wanted):
            self._add_thread()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while not self._queue.empty():  # after an error nobody waits for these
            self._queue.get()
        for _ in self._threads:
            self._queue.put(None)

    def stream(self, records: Iterable[Record]) -> Iterator[Prepared]:
        """Every record prepared, in order, a bounded number of them at a time."""
        window: deque[_Task] = deque()
        for record in records:
            task = _Task(record)
            self._queue.put(task)
            window.append(task)
            if len(window) >= AHEAD:
                yield self._result(window.popleft())
        while window:
            yield self._result(window.popleft())

    def _add_thread(self) -> None:
        # Daemons: the end of this process must not wait for one that hangs.
        thread = threading.Thread(target=self._work, name="decode", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        process: DecodeProcess | None = None
        try:
            while (task := self._queue.get()) is not None:
                try:
                    if self._isolated:
                        process = process or self._new_process()
                        task.done.set_result(prepare(task.record, process.decode))
                    else:
                        task.started = time.monotonic()
                        task.done.set_result(prepare(task.record, self._decode_here))
                except BaseException as error:
                    task.done.set_exception(error)
        finally:
            if process is not None:
                process.close()

    def _result(self, task: _Task) -> Prepared:
        while True:
            try:
                return task.done.result(min(LOOK_SECONDS, self._timeout))
            except TimeoutError:
                if task.done.done():
                    continue
            if task.started is not None and time.monotonic() - task.started > self._timeout:
                return self._second_try(task.record)

    def _second_try(self, record: Record) -> Prepared:
        log.warning(
            "%s: decoding takes longer than %g s; trying once more in a process of its own",
            record.locator,
            self._timeout,
        )
        self._isolated = True
        self._add_thread()  # in the place of the one that hangs
        with self._new_process() as process:
            return prepare(record, partial(process.decode, deaths=1))
