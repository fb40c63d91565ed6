"""`kill -9`, ten times in a row, at random moments: the store of the run that gets through is the undisturbed one's."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from schemas.store import open_store

REPO = Path(__file__).resolve().parents[2]
UNITS, ROWS = 14, 6

# Imports once, then forks for each command (no JAX backend is up before the fork): a launch costs a second, not ten.
# Writing is slowed down, so that moments in the middle of it are hit; which units are worked on is written down.
SERVER = """
import json, os, sys, time
import pytest
from tests import conftest
import lit_precompute.embed_unit as unit
import lit_precompute.publish as publish
import lit_precompute.publish_unit as publish_unit
import pipelines.embed

def slow(module, name, seconds):
    real = getattr(module, name)
    def wrapped(*arguments, **options):
        time.sleep(seconds)
        value = real(*arguments, **options)
        time.sleep(seconds)
        return value
    setattr(module, name, wrapped)

slow(publish_unit, "publish_part", 0.1)
slow(publish, "_write_temporary", 0.06)  # finalising then takes longer than the latest moment
embed_real = unit._embed

def embed(job, one, *rest):
    with open(os.environ["WORKED_ON"], "a") as file:
        file.write(one.name + "\\n")
    return embed_real(job, one, *rest)

unit._embed = embed
conftest._install_stand_in(pytest.MonkeyPatch())
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.environ["OUTPUT"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        status = 1
        try:
            status = pipelines.embed.main(json.loads(line))
        finally:
            sys.stdout.flush()
            os._exit(status)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


class Launcher:
    """Starts `lit-embed` and tells how it ended."""

    def __init__(self, folder: Path) -> None:
        self.worked_on, self.output = folder / "worked-on", folder / "output"
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": str(REPO),
                "JAX_PLATFORMS": "cpu",
                "WORKED_ON": str(self.worked_on),
                "OUTPUT": str(self.output),
            },
        )
        assert self._line() == "ready"

    def start(self, *arguments: str) -> int:
        self.worked_on.write_text("")
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """The exit status; that of a killed process is -9."""
        return os.waitstatus_to_exitcode(int(self._line()))

    def units(self) -> list[str]:
        return self.worked_on.read_text().split()

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(30)

    def _line(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline().strip()
        assert line, "the server of launches ended"
        return line


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    one = Launcher(tmp_path)
    yield one
    one.close()


def files_of(store: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(p for p in store.rglob("*") if p.name != "run.json"):
        name = str(path.relative_to(store))
        if path.is_dir():
            found[name] = "folder"
        else:
            found[name] = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_bytes()
    return found


def test_killed_ten_times_in_a_row(
    tmp_path: Path,
    colour_rows: list[dict[str, Any]],
    write_rows: Callable[..., Path],
    launcher: Launcher,
) -> None:
    rng = random.Random(3)
    for part in range(UNITS):
        rows = [dict(colour_rows[(part + n) % 12], key=f"{part}-{n}") for n in range(ROWS)]
        rows[1]["image"] = rows[1]["image"][:40]  # a failure in every unit
        rows[2]["key"] = "0-2"  # an id of the first unit
        rows[3]["key"] = rows[0]["key"]  # an id of the same unit
        write_rows(tmp_path / "input" / f"{part:02}.parquet", rows)

    def arguments(name: str) -> list[str]:
        return [
            *(
                "--input",
                f"{tmp_path}/input",
                "--format",
                "parquet",
                "--unit-bytes",
                "1",
                "--batch-size",
                "4",
            ),
            *("--tower", "stand-in", "--checkpoint", "random:0", "--tower-id", "t"),
            *("--output", f"{tmp_path}/{name}"),
        ]

    launcher.start(*arguments("undisturbed"))
    assert launcher.wait() == 0, launcher.output.read_text()
    assert len(launcher.units()) == UNITS

    store = tmp_path / "store"
    folder = store / "images" / "t"
    killed, worked = 0, 0
    for attempt in range(10):
        published = {path.stem.removeprefix("embeddings-") for path in folder.glob("embeddings-*.parquet")}
        pid = launcher.start(*arguments("store"))
        moment = ("anywhere", "units", "units", "finish")[attempt % 4]
        until = {
            "anywhere": lambda: True,
            "units": lambda done=published: bool(launcher.units()) or len(done) == UNITS,
            "finish": lambda: len(list(folder.glob("_receipts/*.json"))) == UNITS,
        }[moment]
        deadline = time.monotonic() + 60
        while not until() and not (folder / "manifest.json").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.7 if moment == "anywhere" else 0.4))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        killed += launcher.wait() == -signal.SIGKILL
        assert not published & set(launcher.units()), "a finished unit was computed again"
        worked += len(launcher.units())
        if not (folder / "manifest.json").exists() and (store / "pairs" / "manifest.json").exists():
            assert open_store(str(store)).tower_ids() == []  # nothing half done is served
    assert killed >= 9
    published = {path.stem.removeprefix("embeddings-") for path in folder.glob("embeddings-*.parquet")}
    launcher.start(*arguments("store"))
    assert launcher.wait() == 0, launcher.output.read_text()
    assert not published & set(launcher.units())
    assert worked + len(launcher.units()) <= UNITS + 10  # at most the unit in hand is lost by a death
    assert files_of(store) == files_of(tmp_path / "undisturbed")
