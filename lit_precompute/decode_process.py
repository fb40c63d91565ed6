"""Decoding in a process of its own, which an image may end or hold up without harm to any other.

The process is started afresh (never forked: JAX may be running here) and knows Pillow and NumPy alone. It is handed
one image at a time, so that whoever holds the other end knows which one it died of.
"""

import faulthandler
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import traceback
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from lit_precompute.decode import DecodeError, DecodeLimits, decode
from lit_precompute.pixels import Pixels, pixels_of
from lit_precompute.preprocess import Preprocess
from lit_precompute.views import Views

log = logging.getLogger(__name__)

TRIES = 2  # of one image: a process may also die of something else, such as the memory its neighbours took
START_SECONDS = 120.0
ORPHAN_SECONDS = 10.0  # past the time limit: then nobody is left to end a process that hangs


class DecodeProcess:
    """Decodes images one by one in another process; use with `with`.

    Args:
        preprocess: travels to the process when it can be pickled; else it runs here, and only decoding there.
        limits: what an image may cost.
        timeout: seconds an image may take.
        views: V, of each image.
    """

    def __init__(self, preprocess: Preprocess, limits: DecodeLimits, timeout: float, views: int = 1) -> None:
        self._views, self._limits, self._timeout = Views(preprocess, views), limits, timeout
        self._preprocess_there = True
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def decode(self, image: bytes, id: str = "", deaths: int = 0) -> Pixels:
        """The image's pixels.

        Args:
            image: encoded.
            id: the record's, which further views are drawn by.
            deaths: how often this image was in hand already when a process died or hung.

        Raises:
            DecodeError: as `lit_precompute.decode`; or `crash` or `timeout`, the second time it comes to that.
            OSError: no process can be started.
        """
        for _ in range(deaths, TRIES - 1):
            try:
                return self._ask(image, id)
            except _EndedError as ended:
                log.warning("%s; trying once more", ended)
        try:
            return self._ask(image, id)
        except _EndedError as ended:
            raise DecodeError(ended.reason, f"{ended}, {TRIES} times") from None

    def close(self) -> None:
        """Ends the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def __enter__(self) -> "DecodeProcess":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, image: bytes, id: str) -> Pixels:
        pipe = self._start() if self._pipe is None else self._pipe
        try:
            pipe.send_bytes(id.encode())
            pipe.send_bytes(image)
            if not pipe.poll(self._timeout):
                self.close()
                raise _EndedError("timeout", f"decoding took longer than {self._timeout:g} s")
            answer = json.loads(pipe.recv_bytes())
            values = pipe.recv_bytes() if "shape" in answer else b""
        except (EOFError, ConnectionError) as error:
            raise _EndedError("crash", f"decoding ended the process ({self._last_words()})") from error
        if "bug" in answer:
            raise RuntimeError(answer["bug"])
        if "reason" in answer:
            raise DecodeError(answer["reason"], answer["detail"])
        array = np.frombuffer(values, answer["dtype"]).reshape(answer["shape"])
        if not self._preprocess_there:
            array = self._views(Image.fromarray(array), id)
        return Pixels(answer["width"], answer["height"], array)

    def _start(self) -> Connection:
        """A process that has said it is ready."""
        if (pipe := self._launch(self._views if self._preprocess_there else None)) is not None:
            return pipe
        log.warning("%r cannot travel to another process: only decoding runs apart", self._views.preprocess)
        self._preprocess_there = False
        pipe = self._launch(None)
        assert pipe is not None
        return pipe

    def _launch(self, views: Views | None) -> Connection | None:
        """The pipe to a new process, or None when the preprocessing could not be sent there."""
        self._pipe, theirs = multiprocessing.Pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "lit_precompute.decode_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )
        finally:
            theirs.close()
        settings = (self._limits, self._views.family, self._timeout)
        try:
            self._pipe.send(settings)
            try:
                self._pipe.send(views)
            except Exception:  # pickle raises half a dozen types for what it can not take
                self.close()
                return None
            if not self._pipe.poll(START_SECONDS):
                raise EOFError
            ready = json.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise OSError(f"a process to decode in could not be started: {self._last_words()}") from error
        if not ready:
            self.close()
            return None
        return self._pipe

    def _last_words(self) -> str:
        """How the process ended; it is ended if it has not."""
        assert self._process is not None
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            code = 0
        self.close()
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


class _EndedError(Exception):
    """The process died, or was ended because it took too long."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


def serve(pipe: Connection) -> None:
    """The other end: answers until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those who started us: they close the pipe
    limits, family, timeout = pipe.recv()
    try:
        views = pipe.recv()
    except Exception:  # a class of a script that is not importable here
        pipe.send_bytes(b"false")
        return
    pipe.send_bytes(b"true")
    while True:
        id = pipe.recv_bytes().decode()
        image = pipe.recv_bytes()
        faulthandler.dump_traceback_later(timeout + ORPHAN_SECONDS, exit=True)
        answer, values = _answer(image, id, views, limits, family)
        faulthandler.cancel_dump_traceback_later()
        pipe.send_bytes(json.dumps(answer).encode())
        if values is not None:
            pipe.send_bytes(values)


def _answer(
    image: bytes, id: str, views: Views | None, limits: DecodeLimits, family: Any
) -> tuple[dict[str, Any], bytes | None]:
    try:
        if views is None:
            decoded = decode(image, limits, family)
            found = Pixels(decoded.width, decoded.height, np.asarray(decoded))
        else:
            found = pixels_of(image, id, views, limits)
    except DecodeError as error:
        return {"reason": error.reason, "detail": error.detail}, None
    except Exception:
        return {"bug": traceback.format_exc()}, None
    values = found.values
    facts = {
        "width": found.width,
        "height": found.height,
        "dtype": values.dtype.str,
        "shape": values.shape,
    }
    return facts, values.tobytes()


if __name__ == "__main__":
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, ConnectionError):  # nobody wants more
        sys.exit(0)
