"""`kill -9` while inputs are appended: readers keep what they had, and the store ends as the undisturbed one."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from schemas.store import open_store
from tests.pipelines.test_kill import Watched, files_of, launcher

__all__ = ["launcher"]  # the fixture

KILLS = 6


def test_killed_again_and_again_while_appending(
    tmp_path: Path,
    colour_rows: list[dict[str, Any]],
    write_rows: Callable[..., Path],
    launcher: Watched,
) -> None:
    rng = random.Random(5)

    def add_input(part: int) -> None:
        rows = [dict(colour_rows[(part + n) % 12], key=f"{part}-{n}") for n in range(4)]
        rows[1]["image"] = rows[1]["image"][:40]  # a failure in every unit
        rows[2]["key"] = "0-0" if part else "0-2"  # an id of the first unit
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
            *("--tower-id", "t", "--append"),
            *("--output", f"{tmp_path}/{name}", "--max-failure-rate", "1"),
        ]

    def ids() -> list[str]:
        parts = open_store(str(tmp_path / "store")).images("t").iter_joined()
        return [id for part in parts for id in part.ids.to_pylist()]

    for part in range(3):
        add_input(part)
    launcher.succeed(*arguments("store"))
    before = ids()
    shutil.copytree(tmp_path / "store", tmp_path / "undisturbed")
    for part in range(3, 9):
        add_input(part)
    launcher.succeed(*arguments("undisturbed"))
    assert launcher.units() == [f"g001-0000{n}" for n in range(6)]

    folder = tmp_path / "store" / "images" / "t"
    killed = 0
    for attempt in range(KILLS):
        pid = launcher.start(*arguments("store"))
        deadline = time.monotonic() + 60
        at_the_end = attempt % 2 == 1  # while the manifests are swapped
        while (
            at_the_end and len(list(folder.glob("_receipts/*.json"))) < 6 and time.monotonic() < deadline
        ) and '"-g001"' not in (folder / "manifest.json").read_text():
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3 if at_the_end else 1.0))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        killed += launcher.wait() == -signal.SIGKILL
        assert not [unit for unit in launcher.units() if unit.startswith("g000")]
        found = ids()  # of a whole store at every moment
        assert found == before or set(before) < set(found)
    assert killed >= KILLS - 2
    launcher.succeed(*arguments("store"))
    assert files_of(tmp_path / "store") == files_of(tmp_path / "undisturbed")
