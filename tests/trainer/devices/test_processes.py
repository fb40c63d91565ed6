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

from trainer.checkpoint import read_params
from trainer.devices.processes import ProcessConfig

REPO = Path(__file__).resolve().parents[3]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(REPO),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}


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


def finish(running: list[subprocess.Popen], timeout: float = 300) -> list[str]:
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
    assert (found["before"], found["after"]) == (None, 5)  # two steps after the one it was asked at


WORDS = ("red", "green", "blue", "large", "small", "round", "flat", "old")


@pytest.fixture
def flags(write_store, row, tmp_path):
    """A command line for a tiny tower whose larger arrays are worth cutting over devices."""
    rows = [
        row(f"{a}-{b}", [(np.eye(8)[i] + 0.5 * np.eye(8)[j]).tolist()], (f"{a} {b}",))
        for i, a in enumerate(WORDS)
        for j, b in enumerate(WORDS[:3])
    ]
    store = write_store([rows])
    tiny = "--text-width 64 --text-depth 1 --text-heads 2 --text-mlp 64 --vocab-size 64 --max-text-length 6"
    usual = "--batch-size 12 --learning-rate 1e-3 --log-every 1 --text-dropout 0.3 --no-tensorboard"

    def make(output: str, *more: str) -> list[str]:
        places = f"--store {store} --output {tmp_path / output} --spool-dir {tmp_path / 'spool'}"
        return ["-m", "trainer.train", *places.split(), *tiny.split(), *usual.split(), *more]

    return make


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def together(count: int) -> list[str]:
    return f"--coordinator 127.0.0.1:{free_port()} --num-processes {count} --process-id {{id}}".split()


@pytest.mark.slow
def test_a_run_over_two_processes_is_that_of_one_and_goes_on_in_one(flags, tmp_path):
    """With the state cut over them and an average kept; logs are written once; whoever goes on finds it all."""
    usual = ("--steps", "6", "--checkpoint-every", "3", "--average-decay", "0.9")
    finish(start(1, flags("one", *usual)))
    said, silent = finish(start(2, flags("two", *usual, "--shard-parameters", *together(2))))
    assert "text tower: transformer" in said
    assert "step" not in silent

    expected = [line["loss"] for line in lines(tmp_path / "one")]
    np.testing.assert_allclose([line["loss"] for line in lines(tmp_path / "two")], expected, rtol=5e-6)
    assert [line["step"] for line in lines(tmp_path / "two")] == list(range(1, 7))
    for item in ("params", "average"):
        step, ours = read_params(tmp_path / "two" / "checkpoints", item=item)
        _, theirs = read_params(tmp_path / "one" / "checkpoints", item=item)
        assert step == 6
        for name in ("head", "log_scale"):
            _close(ours[name], theirs[name])

    shutil.rmtree(tmp_path / "two" / "checkpoints" / "6")
    (tmp_path / "two" / "summary.json").unlink()
    (said,) = finish(start(1, flags("two", *usual)))
    assert "going on after step 3" in said
    np.testing.assert_allclose([line["loss"] for line in lines(tmp_path / "two")], expected, rtol=5e-6)


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
