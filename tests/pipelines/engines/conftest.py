"""A small job as a user starts it, in a process of its own and on a terminal; the store it leaves, as digests."""

import io
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schemas.manifest import ImagesManifest

REPO = Path(__file__).resolve().parents[3]
ENGINES = Path(os.environ.get("LIT_ENGINES", REPO / ".venv" / "engines")).resolve()
UNITS, IMAGES = 6, 3


@dataclass(frozen=True)
class Ran:
    """How a command ended.

    Attributes:
        status: exit status.
        out: standard output.
        terminal: what it showed on the terminal.
        loads: processes that loaded the tower, with how often.
        launcher: the command's own process.
        tables: digest of the store's rows, its counts and failures; None when it is not finished.
    """

    status: int
    out: str
    terminal: str
    loads: Counter[int]
    launcher: int
    tables: tuple[str, dict[str, int], dict[str, int]] | None


@pytest.fixture(scope="session")
def engines() -> Path:
    return ENGINES


@pytest.fixture(scope="session")
def engine_file() -> Callable[[str, str], str]:
    """Finds what an engine needs; skips where it could not be fetched."""

    def find(name: str, program: str = "") -> str:
        if program and shutil.which(program) is None:
            pytest.skip(f"needs {program}")
        if not (ENGINES / name).exists():
            pytest.skip(f"needs {ENGINES / name}: make test-runners fetches it")
        return str(ENGINES / name)

    return find


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, write_rows: Callable[..., Path]) -> Path:
    """Six files of three pictures; one picture is none."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for unit in range(UNITS):
        rows = []
        for number in range(IMAGES):
            file = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(file, "PNG")
            rows.append(
                {"key": f"p{unit}-{number}", "image": file.getvalue(), "caption": f"picture {unit} {number}"}
            )
        if unit == 2:
            rows[1]["image"] = b"no picture"
        write_rows(folder / f"{unit}.parquet", rows)
    return folder


def tables_of(store: Path) -> tuple[str, dict[str, int], dict[str, int]] | None:
    path = store / "images" / "t" / "manifest.json"
    if not path.exists():
        return None
    manifest = ImagesManifest.from_json(path.read_bytes())
    return manifest.content_id, dict(manifest.counts), dict(manifest.failures)


def worker_environment(**more: str) -> dict[str, str]:
    """Of workers as of the command: this Python first, the packages importable."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPO), "PATH": path, **more}


@pytest.fixture
def lit_embed(tmp_path: Path) -> Iterator[Callable[..., Ran]]:
    """Runs the command on an input with flags; ends all it started."""
    running: list[subprocess.Popen[str]] = []

    def run(
        source: Path, name: str, flags: Sequence[str], meanwhile: Callable[[Path], None] | None = None
    ) -> Ran:
        store, loads = tmp_path / name, tmp_path / f"{name}-loads"
        loads.mkdir()
        command = [
            *(sys.executable, str(Path(__file__).with_name("counted.py"))),
            *("--input", str(source), "--format", "parquet", "--unit-bytes", "1", "--output", str(store)),
            *("--tower", "vit-mu-32", "--image-size", "32", "--checkpoint", "random:0", "--tower-id", "t"),
            *("--batch-size", "4", *flags),
        ]
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=theirs, text=True, cwd=REPO, start_new_session=True,
            env=worker_environment(LOADS=str(loads)),
        )  # fmt: skip
        os.close(theirs)
        running.append(process)
        shown: list[bytes] = []
        reader = threading.Thread(target=_read_all, args=(ours, shown))
        reader.start()
        if meanwhile is not None:
            meanwhile(store)
        out, _ = process.communicate(timeout=600)
        reader.join(30)
        return Ran(
            status=process.returncode,
            out=out,
            terminal=b"".join(shown).decode(errors="replace"),
            loads=Counter(int(path.name.split("-")[0]) for path in loads.iterdir()),
            launcher=process.pid,
            tables=tables_of(store),
        )

    yield run
    for process in running:
        end_group(process)


def end_group(process: "subprocess.Popen[Any]") -> None:
    """Ends a process that was started with a session of its own, and all that it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue


def _read_all(handle: int, into: list[bytes]) -> None:
    while True:
        try:
            data = os.read(handle, 65536)
        except OSError:  # the other side is closed
            data = b""
        if not data:
            os.close(handle)
            return
        into.append(data)


@pytest.fixture(scope="session")
def check_ran() -> Callable[[Ran, Ran], None]:
    """Asserts that a run on an engine equals one in a single process, and showed what a user wants to see."""

    def check(ran: Ran, plain: Ran) -> None:
        assert ran.status == 0, ran.terminal[-3000:] + ran.out
        assert ran.tables == plain.tables
        assert f"{UNITS * IMAGES} seen = {UNITS * IMAGES - 1} embedded + 1 failed" in ran.out
        assert re.search(
            rf"{UNITS}/{UNITS} units  {UNITS * IMAGES} images  [0-9.,]+ images/s  1 failed", ran.terminal
        )
        assert "complete" in ran.out.splitlines()[-1]
        assert ran.loads
        assert set(ran.loads.values()) == {1}, "a process loads the tower once"

    return check
