"""A lease on a tower's folder, so that two launches never work in it at once."""

import json
import logging
import os
import re
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from types import TracebackType

from lit_precompute.publish import host_name, process_lives, publish, remove, replace
from schemas.storage import Folder

log = logging.getLogger(__name__)

NAME = "lease.json"
_OF_RANGE = re.compile(r"lease-(\d+)-(\d+)\.json")
RENEW_SECONDS = 20.0
EXPIRES_SECONDS = 120.0  # six renewals missed: the holder is gone, or can no longer reach the storage


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, and when it was last seen.

    Attributes:
        token: of this one launch.
        host, pid: where it runs.
        seen: seconds since the epoch, by the holder's clock.
    """

    token: str
    host: str
    pid: int
    seen: float


def remove_dead(folder: Folder) -> None:
    """Removes leases whose process, of this machine, is dead."""
    for name in leases(folder):
        holder = read_holder(folder, name)
        if holder is not None and holder.host == host_name() and not process_lives(holder.pid):
            remove(folder, name)


def leases(folder: Folder) -> list[str]:
    """The lease files in a folder: of launches at work, and of such that died."""
    return [name for name in folder.sizes() if name == NAME or _OF_RANGE.fullmatch(name)]


def read_holder(folder: Folder, name: str) -> Holder | None:
    """Who holds the folder, or is written down as holding it."""
    try:
        return Holder(**json.loads(folder.read(name)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


class Lease:
    """Holds a folder while the `with` block runs; a thread says every 20 s that it is still wanted.

    A lease whose process is known to be dead (same host) is simply taken. One that was not renewed for two minutes
    can be taken with `takeover`; a renewed one can not: stop the other launch first.

    Args:
        folder: where the lease file lies.
        takeover: take a lease that has expired.
        span: the units this launch does, when others may do others beside it; None for all of them.

    Raises:
        ValueError: by `__enter__`, when another launch holds the folder.
    """

    def __init__(self, folder: Folder, takeover: bool = False, span: range | None = None) -> None:
        self._folder = folder
        self._span = span
        self._name = NAME if span is None else f"lease-{span.start}-{span.stop}.json"
        self._takeover = takeover
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        if not publish(self._folder, self._name, self._claim()):
            self._refuse_unless_free(self._name)
            remove(self._folder, self._name)
            if not publish(self._folder, self._name, self._claim()):
                self._refuse_unless_free(self._name)
        try:
            for name in self._folder.sizes():
                if name != self._name and self._overlaps(name):
                    self._refuse_unless_free(name)
                    remove(self._folder, name)
        except BaseException:
            self._give_back()
            raise
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._give_back()

    def _overlaps(self, name: str) -> bool:
        """Whether a file is the lease of a launch that does a unit of ours."""
        match = _OF_RANGE.fullmatch(name)
        if match is None:
            return name == NAME
        return self._span is None or (self._span.start < int(match[2]) and int(match[1]) < self._span.stop)

    def _give_back(self) -> None:
        try:
            if (holder := read_holder(self._folder, self._name)) is not None and holder.token == self._token:
                remove(self._folder, self._name)
        except OSError as trouble:  # the work is done; the next launch finds a lease that expires
            log.warning("%s: the lease could not be given back: %s", self._folder.path, trouble)

    def _claim(self) -> bytes:
        return json.dumps(asdict(Holder(self._token, host_name(), os.getpid(), time.time()))).encode()

    def _refuse_unless_free(self, name: str) -> None:
        holder = read_holder(self._folder, name)
        if holder is None or holder.token == self._token:
            return
        where = f"process {holder.pid} on {holder.host}"
        if holder.host == host_name():
            if not process_lives(holder.pid):
                return
            advice = "Wait for it, or stop it and run again."
        else:
            age = time.time() - holder.seen
            if age > EXPIRES_SECONDS and self._takeover:
                return
            advice = f"It was last seen {max(0.0, age):,.0f} s ago. " + (
                "If it is gone, run again with --takeover."
                if age > EXPIRES_SECONDS
                else f"--takeover works once it has been silent for {EXPIRES_SECONDS:,.0f} s."
            )
        raise ValueError(
            f"{self._folder.path}: only one launch may work here at a time, found {where}. {advice}"
        )

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                if (holder := read_holder(self._folder, self._name)) is None or holder.token == self._token:
                    replace(self._folder, self._name, self._claim())
            except OSError:  # storage stumbled; the lease lasts for six renewals
                continue
