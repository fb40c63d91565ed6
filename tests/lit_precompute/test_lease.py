"""One launch at a time in a folder; the dead are succeeded, the living are not."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from lit_precompute import lease as module
from lit_precompute.lease import EXPIRES_SECONDS, NAME, Holder, Lease
from schemas.storage import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path))


def leave(folder: Folder, host: str, pid: int, age: float) -> None:
    holder = Holder("other", host, pid, time.time() - age)
    Path(folder.at(NAME)).write_text(json.dumps(vars(holder)))


def test_a_second_launch_is_refused_until_the_first_is_through(folder: Folder) -> None:
    with (
        Lease(folder),
        pytest.raises(
            ValueError, match=f"only one launch may work here at a time, found process {os.getpid()}"
        ),
        Lease(folder, takeover=True),
    ):
        pass
    with Lease(folder):
        pass
    assert folder.sizes() == {}


def test_a_dead_process_of_this_machine_is_succeeded(folder: Folder) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    leave(folder, os.uname().nodename, process.pid, age=1)
    with Lease(folder):
        assert json.loads(folder.read(NAME))["pid"] == os.getpid()


def test_another_machine_is_succeeded_only_when_silent_and_on_request(folder: Folder) -> None:
    leave(folder, "elsewhere", 1, age=5)
    for takeover in (False, True):
        with (
            pytest.raises(ValueError, match="--takeover works once it has been silent"),
            Lease(folder, takeover),
        ):
            pass
    leave(folder, "elsewhere", 1, age=EXPIRES_SECONDS + 1)
    with pytest.raises(ValueError, match="run again with --takeover"), Lease(folder):
        pass
    with Lease(folder, takeover=True):
        assert json.loads(folder.read(NAME))["host"] != "elsewhere"


def test_it_is_renewed_while_it_is_held(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.02)
    with Lease(folder):
        first = json.loads(folder.read(NAME))["seen"]
        deadline = time.monotonic() + 10
        while json.loads(folder.read(NAME))["seen"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_one_that_was_taken_over_does_not_take_the_lease_back(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.02)
    with Lease(folder):
        leave(folder, "elsewhere", 1, age=0)
        time.sleep(0.2)
        assert json.loads(folder.read(NAME))["host"] == "elsewhere"
    assert json.loads(folder.read(NAME))["host"] == "elsewhere"


def test_rubbish_is_no_lease(folder: Folder) -> None:
    Path(folder.at(NAME)).write_text("{")
    with Lease(folder):
        assert json.loads(folder.read(NAME))["pid"] == os.getpid()
