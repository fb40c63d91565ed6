"""`kill -9`, ten times in a row, at random moments: the store of the run that gets through is the undisturbed one's."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from schemas.store import open_store
from tests.pipelines.launcher import Launcher

UNITS, ROWS = 8, 6
# When each of the ten launches is killed: at any moment, after a unit was begun, while the store is finished.
MOMENTS = (
    "anywhere",
    "units",
    "units",
    "units",
    "anywhere",
    "units",
    "finish",
    "anywhere",
    "finish",
    "finish",
)


# Where it is asked for, writing is slowed down, so that moments in the middle of it are hit; which units are worked on
# is written down.
PREPARE = """
import time
import lit_precompute.embed_unit as unit
import lit_precompute.publish as publish
import lit_precompute.publish_unit as publish_unit

def slow(module, name, seconds):
    real = getattr(module, name)
    def wrapped(*arguments, **options):
        time.sleep(seconds * order["slow"])
        value = real(*arguments, **options)
        time.sleep(seconds * order["slow"])
        return value
    setattr(module, name, wrapped)

slow(publish_unit, "publish_part", 0.1)
slow(publish, "_write_temporary", 0.06)  # finalising then takes longer than the latest moment
embed_real = unit._embed

def embed(job, one, *rest):
    with open(order["worked_on"], "a") as file:
        file.write(one.name + "\\n")
    return embed_real(job, one, *rest)

unit._embed = embed
"""


class Watched:
    """Launches of which the units they work on are known."""

    def __init__(self, launcher: Launcher, folder: Path) -> None:
        self._launcher, self._worked_on = launcher, folder / "worked-on"

    def start(self, *arguments: str, slow: bool = True) -> int:
        self._worked_on.write_text("")
        return self._launcher.start(*arguments, slow=int(slow), worked_on=str(self._worked_on))

    def wait(self) -> int:
        return self._launcher.wait()

    def succeed(self, *arguments: str) -> None:
        """A launch that nothing slows down or kills."""
        self.start(*arguments, slow=False)
        assert self.wait() == 0, self._launcher.output

    def units(self) -> list[str]:
        return self._worked_on.read_text().split()


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Watched]:
    with Launcher(tmp_path, PREPARE) as one:
        yield Watched(one, tmp_path)


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
    launcher: Watched,
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
            *("--tower-id", "t"),
            *("--output", f"{tmp_path}/{name}"),
        ]

    launcher.succeed(*arguments("undisturbed"))
    assert len(launcher.units()) == UNITS

    store = tmp_path / "store"
    folder = store / "images" / "t"
    killed, worked = 0, 0
    for moment in MOMENTS:
        published = {path.stem.removeprefix("embeddings-") for path in folder.glob("embeddings-*.parquet")}
        pid = launcher.start(*arguments("store"))
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
    launcher.succeed(*arguments("store"))
    assert not published & set(launcher.units())
    assert worked + len(launcher.units()) <= UNITS + 10  # at most the unit in hand is lost by a death
    assert files_of(store) == files_of(tmp_path / "undisturbed")
