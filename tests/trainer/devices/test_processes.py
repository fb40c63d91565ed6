"""Several processes on this machine's loopback take the steps of one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.runs import TINY, lines, losses, places, word_rows
from trainer.checkpoint import read_params
from trainer.devices.processes import ProcessConfig

REPO = Path(__file__).resolve().parents[3]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(REPO),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


@pytest.fixture(scope="module", autouse=True)
def compiled_by_others(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What one process has compiled the next need not."""
    ENVIRONMENT["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(count: int, command: list[str]) -> list[subprocess.Popen]:
    """Start as many processes, `{id}` in the command being each one's number."""
    return [
        subprocess.Popen(
            [sys.executable, *(part.format(id=number) for part in command)],
            env=ENVIRONMENT,
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def finish(running: list[subprocess.Popen], timeout: float = 900) -> list[str]:
    """What they said; none may fail, and none is left behind."""
    try:
        said = [process.communicate(timeout=timeout) for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(process.returncode == 0 for process in running), "\n".join(error for _, error in said)
    return [out for out, _ in said]


def compute_together(count: int) -> dict:
    script = str(REPO / "tests/trainer/devices/one_of_many.py")
    out, *others = finish(start(count, [script, "{id}", str(count), str(free_port())]))
    assert not any(other.startswith("{") for other in others)
    return json.loads(out[out.index("{") :])


@pytest.fixture(scope="module")
def alone() -> dict:
    return compute_together(1)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_value_and_gradient_are_those_of_one_process(alone, count):
    found = compute_together(count)
    assert (alone["count"], found["count"]) == (1, count)
    for kind, (value, *gradients) in found["losses"].items():
        expected = alone["losses"][kind]
        np.testing.assert_allclose(value, expected[0], rtol=2e-6)
        for ours, theirs in zip(gradients, expected[1:], strict=True):
            assert np.linalg.norm(np.subtract(ours, theirs)) <= 5e-6 * np.linalg.norm(theirs)
    assert found["agree"] == [True, False]
    assert found["stop"] == [False, False, True]


@pytest.fixture
def flags(write_store, row, tmp_path):
    """A command line for a tiny tower whose larger arrays are worth cutting over devices."""
    store = write_store([word_rows(row)])
    usual = (
        "--batch-size 12 --learning-rate 1e-3 --log-every 1 --text-dropout 0.3 --text-width 64 --text-mlp 64"
    )

    def make(output: str, *more: str) -> list[str]:
        return ["-m", "trainer.train", *places(tmp_path, store, output), *TINY, *usual.split(), *more]

    return make


def together(count: int) -> list[str]:
    return f"--coordinator 127.0.0.1:{free_port()} --num-processes {count} --process-id {{id}}".split()


@pytest.mark.slow
def test_a_run_over_two_processes_is_that_of_one_and_goes_on_in_one(flags, tmp_path):
    """With the state cut over them, an average kept and evaluated; logs are written once; whoever goes on finds all."""
    usual = ("--steps", "6", "--checkpoint-every", "3", "--average-decay", "0.9")
    watched = ("--eval-every", "3", "--holdout-fraction", "0.3")
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(1, flags("one", *usual, *watched)))
    said, silent = finish(start(2, flags("two", *usual, *watched, "--shard-parameters", *together(2))))
    assert "text tower: transformer" in said
    assert said.count("evaluated step") == 2
    assert "step" not in silent

    np.testing.assert_allclose(losses(two), losses(one), rtol=5e-6)
    assert [line["step"] for line in lines(two)] == list(range(1, 7))
    for item in ("params", "average"):
        step, ours = read_params(two / "checkpoints", item=item)
        _, theirs = read_params(one / "checkpoints", item=item)
        assert step == 6
        for name in ("head", "log_scale"):
            _close(ours[name], theirs[name])
    _same_evaluations(two, one)
    kept = read_params(two / "best")[0]
    assert kept == json.loads((two / "best.json").read_text())["step"] == read_params(one / "best")[0]

    shutil.rmtree(two / "checkpoints" / "6")
    (two / "summary.json").unlink()
    (said,) = finish(start(1, flags("two", *usual, *watched)))
    assert "going on after step 3" in said
    np.testing.assert_allclose(losses(two), losses(one), rtol=5e-6)
    _same_evaluations(two, one)


def _same_evaluations(ours: Path, theirs: Path) -> None:
    found, expected = (lines(run, "evaluations.jsonl") for run in (ours, theirs))
    assert [line["step"] for line in found] == [3, 6]
    for mine, other in zip(found, expected, strict=True):
        assert {name: mine[name] for name in mine if name != "seconds"} == {
            name: other[name] for name in other if name != "seconds"
        }


def _close(ours, theirs):
    if isinstance(ours, dict):
        for name in theirs:
            _close(ours[name], theirs[name])
    else:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(flags, tmp_path):
    usual = ("--steps", "1000000", "--warmup-steps", "1", "--checkpoint-every", "1000000")
    running = start(2, flags("run", *usual, *together(2)))
    path = tmp_path / "run" / "metrics.jsonl"
    for _ in range(600):
        if (path.exists() and len(path.read_text().splitlines()) > 3) or running[0].poll() is not None:
            break
        time.sleep(0.1)
    running[1].send_signal(signal.SIGTERM)
    said, _ = finish(running)
    assert "stopped by a signal to another process after step" in said
    step, _ = read_params(tmp_path / "run" / "checkpoints")
    assert step == lines(tmp_path / "run")[-1]["step"]


@pytest.mark.parametrize(
    ("config", "environment", "said"),
    [
        (ProcessConfig(num_processes=2, process_id=0), {}, "coordinator: must be given"),
        (ProcessConfig("host:1"), {}, "process_id None of num_processes None"),
        (ProcessConfig("host:1", 2, 2), {}, "process_id 2 of num_processes 2"),
        (ProcessConfig(), {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "x"}, "JAX_NUM_PROCESSES"),
    ],
)
def test_processes_that_do_not_know_each_other_are_refused(monkeypatch, config, environment, said):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        config.resolved()


def test_the_environment_speaks_where_flags_do_not(monkeypatch):
    assert ProcessConfig().resolved() == ProcessConfig()
    for name, value in (("COORDINATOR_ADDRESS", "a:1"), ("NUM_PROCESSES", "4"), ("PROCESS_ID", "3")):
        monkeypatch.setenv(f"JAX_{name}", value)
    assert ProcessConfig().resolved() == ProcessConfig("a:1", 4, 3)
    assert ProcessConfig(process_id=1).resolved().process_id == 1
    assert ProcessConfig("auto").resolved() == ProcessConfig("auto")
