"""A Flink cluster of which one of two TaskManagers is killed in the middle: the store comes out equal."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.runners

REPO = Path(__file__).resolve().parents[3]
UNITS, IMAGES = 24, 4
OPENED = ("java.util", "java.lang", "java.time", "java.nio", "java.net", "java.util.concurrent")
# A TaskManager that is started without Flink's scripts must be told every size.
TASK_MANAGER = {
    "taskmanager.cpu.cores": "2",
    "taskmanager.memory.framework.heap.size": "64m",
    "taskmanager.memory.framework.off-heap.size": "64m",
    "taskmanager.memory.task.heap.size": "200m",
    "taskmanager.memory.task.off-heap.size": "0",
    "taskmanager.memory.managed.size": "64m",
    "taskmanager.memory.network.min": "32m",
    "taskmanager.memory.network.max": "32m",
    "taskmanager.memory.jvm-metaspace.size": "160m",
    "taskmanager.memory.jvm-overhead.min": "64m",
    "taskmanager.memory.jvm-overhead.max": "64m",
}


@dataclass
class Cluster:
    """One JobManager, two TaskManagers, one pool of Python workers; each a process of its own."""

    folder: Path
    classes: str
    rest: int
    pool: int
    processes: dict[str, "subprocess.Popen[Any]"] = field(default_factory=dict)

    def start(self) -> None:
        conf = self.folder / "conf"
        conf.mkdir()
        settings = {
            "jobmanager.rpc.address": "localhost",
            "jobmanager.rpc.port": free_port(),
            "rest.address": "localhost",
            "rest.bind-port": self.rest,
            "rest.port": self.rest,
            "jobmanager.memory.process.size": "700m",
            "taskmanager.host": "localhost",
            "taskmanager.numberOfTaskSlots": 2,
            "cluster.evenly-spread-out-slots": "true",
            "classloader.resolve-order": "parent-first",
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 5,
            "restart-strategy.fixed-delay.delay": "1 s",
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 10000,
            "io.tmp.dirs": self.folder,
        }
        (conf / "config.yaml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
        self._java("jobmanager", "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint")
        sizes = [word for name, value in TASK_MANAGER.items() for word in ("-D", f"{name}={value}")]
        for name in ("taskmanager-1", "taskmanager-2"):
            main = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
            self._java(name, main, *sizes, "-D", f"taskmanager.resource-id={name}")
        python = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"]
        self._start("pool", [*python, f"--service_port={self.pool}"])
        until(lambda: self.get("/overview")["taskmanagers"] == 2, 180, "two TaskManagers at the JobManager")

    def get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://localhost:{self.rest}{path}", timeout=10) as answer:
                return json.load(answer)
        except OSError:
            return {"taskmanagers": 0}

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        for process in self.processes.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            process.wait(30)

    def _java(self, name: str, main: str, *more: str) -> None:
        opens = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
        exports = ["--add-exports=java.base/sun.net.util=ALL-UNNAMED"]
        heap = ["-Xmx400m", "-XX:MaxDirectMemorySize=256m"]
        command = ["java", *heap, *opens, *exports, "-cp", self.classes, main]
        self._start(name, [*command, "--configDir", str(self.folder / "conf"), *more])

    def _start(self, name: str, command: list[str]) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PYTHONPATH": str(REPO), "PATH": path, "JAX_PLATFORMS": "cpu"}
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )


@pytest.fixture
def cluster(tmp_path: Path, engines: Path, engine_file: Callable[..., str]) -> Iterator[Cluster]:
    jar = engine_file("flink.jar", "java")
    parts = engines / "flink-parts"  # a ready-made jar holds Flink itself
    classes = f"{parts.resolve()}/*" if parts.exists() else jar
    folder = tmp_path / "cluster"
    folder.mkdir()
    running = Cluster(folder, classes, free_port(), free_port())
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def large_photos(tmp_path: Path, write_rows: Callable[..., Path]) -> Path:
    """Pictures that take a while to decode, so that there is a middle to kill in."""
    random = np.random.default_rng(0)
    for unit in range(UNITS):
        rows = []
        for number in range(IMAGES):
            colour = tuple(int(value) for value in random.integers(0, 256, 3))
            file = io.BytesIO()
            Image.new("RGB", (3000, 3000), colour).save(file, "JPEG")
            rows.append(
                {"key": f"p{unit}-{number}", "image": file.getvalue(), "caption": f"picture {unit} {number}"}
            )
        write_rows(tmp_path / "photos" / f"{unit:02}.parquet", rows)
    return tmp_path / "photos"


def test_a_killed_task_manager_costs_nothing_but_time(
    cluster: Cluster, large_photos: Path, lit_embed: Any, engine_file: Any
) -> None:
    plain = lit_embed(large_photos, "plain", [])
    assert plain.status == 0
    done_when_killed: list[int] = []

    def kill_in_the_middle(store: Path) -> None:
        receipts = store / "images" / "t" / "_receipts"
        until(lambda: len(list(receipts.glob("*.json"))) >= 2, 300, "two receipts")
        os.kill(cluster.processes["taskmanager-1"].pid, signal.SIGKILL)
        done_when_killed.append(len(list(receipts.glob("*.json"))))

    flags = [
        *("--runner=FlinkRunner", f"--flink_master=localhost:{cluster.rest}", "--parallelism=2"),
        *(f"--flink_job_server_jar={engine_file('flink.jar')}", "--job_server_jvm_properties=-Xmx512m"),
        *("--environment_type=EXTERNAL", f"--environment_config=localhost:{cluster.pool}"),
    ]
    ran = lit_embed(large_photos, "cluster", flags, kill_in_the_middle)
    assert ran.status == 0, ran.terminal[-3000:] + ran.out
    assert done_when_killed[0] < UNITS, "the worker must die while there is work left"
    assert cluster.processes["taskmanager-1"].poll() == -signal.SIGKILL
    assert "to RESTARTING" in cluster.log("jobmanager")
    assert ran.tables == plain.tables
    assert ran.tables[1]["embedded"] == UNITS * IMAGES
    assert ran.launcher not in ran.loads


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port: int = listener.getsockname()[1]
        return port


def until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)
