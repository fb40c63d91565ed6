"""What a plan of a hundred thousand units costs the launching process and each worker.

python -m benchmarks.plan_size [--units 100000]

Makes as many empty archives in a temporary folder, then takes each step of a launch and prints seconds of a core, the
growth of resident memory, and bytes: listing and cutting the input, writing the plan, finding out what is done, the
Beam graph (which carries unit numbers, not units), a worker reading the plan. Exit status 1 when a step takes more than
it may.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam

from lit_precompute.agreement import agree_plan
from lit_precompute.config import EmbedConfig, SourceConfig, TowerConfig
from lit_precompute.job import Job, open_job
from lit_precompute.plan import Plan, read_plan, write_plan
from pipelines.finish.receipts import standing_receipts
from pipelines.finish.standing import units_to_do
from pipelines.graph import build
from schemas.manifest import TowerInfo
from schemas.storage import Folder

SECONDS_A_UNIT = 100e-6  # of a core, each step may take; 10 s for 100,000 units
GRAPH_BYTES = 2 << 20  # Dataflow takes graphs up to 10 MB
BYTES_A_UNIT = 60  # of plan.parquet
TOWER = TowerInfo("none", {}, "random:0", "none", {"image_size": 1}, 1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, default=100_000)
    units = parser.parse_args().units
    logging.disable(logging.WARNING)  # of Beam, about clients that are not installed
    print(f"{'step':34} {'seconds':>8} {'MB more':>8} {'bytes':>12}")
    with tempfile.TemporaryDirectory() as folder:
        slow = _steps(Path(folder), units)
    print(f"more than they may take: {', '.join(slow) or 'none'}")
    return 1 if slow else 0


def _steps(folder: Path, units: int) -> list[str]:
    for number in range(units):
        place = folder / "input" / f"{number // 1000:03}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        (place / f"{number:06}.tar").touch()
    config = EmbedConfig(
        SourceConfig((str(folder / "input"),), "webdataset"),
        TowerConfig("none", "random:0"),
        str(folder / "store"),
    )
    store = Folder(config.output)
    slow: list[str] = []
    plan: Plan = _timed("list and cut the input", lambda: agree_plan(config, {}).plan, units, slow)
    _timed("digest", lambda: plan.digest, units, slow)
    _timed("write the plan", lambda: write_plan(store, plan), units, slow)
    size = (folder / "store" / "plan.parquet").stat().st_size
    _bytes("plan.parquet", size, BYTES_A_UNIT * units + 10_000, slow)
    again = _timed("agree on it again", lambda: agree_plan(config, {}).plan, units, slow)
    assert again == plan
    job: Job = open_job(config, TOWER, plan, {})
    places = _timed("what is to be done", lambda: units_to_do(job, plan), units, slow)
    receipts = _timed(
        "receipts that stand", lambda: standing_receipts(job, [unit for _, unit in places]), units, slow
    )
    todo = [place for (place, _), receipt in zip(places, receipts, strict=True) if receipt is None]
    graph = _timed("the graph", lambda: _graph(job, todo), units, slow)
    _bytes("the graph", len(graph), GRAPH_BYTES, slow)
    _timed("a worker reads the plan", lambda: read_plan(store), units, slow)
    _timed("a few units of it", lambda: read_plan(store, ["g000-00007"]), units, slow)
    return slow


def _graph(job: Job, numbers: list[int]) -> bytes:
    pipeline = beam.Pipeline()
    build(pipeline, job, numbers)
    return pipeline.to_runner_api().SerializeToString()


def _timed(step: str, action: Callable[[], Any], units: int, slow: list[str]) -> Any:
    before, started = _resident_mb(), time.process_time()  # whatever else the machine does
    value = action()
    seconds = time.process_time() - started
    print(f"{step:34} {seconds:8.2f} {_resident_mb() - before:8.1f}", flush=True)
    if seconds > max(1.0, SECONDS_A_UNIT * units):
        slow.append(step)
    return value


def _bytes(what: str, size: int, most: int, slow: list[str]) -> None:
    print(f"{what:34} {'':8} {'':8} {size:12,}", flush=True)
    if size > most:
        slow.append(f"bytes of {what}")


def _resident_mb() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


if __name__ == "__main__":
    sys.exit(main())
