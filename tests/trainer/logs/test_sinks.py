"""What goes to files and dashboards survives being cut off."""

import builtins
import json
import math
import sys
import types

import pytest

from trainer.logs.sinks import JsonLines, TensorBoard, WeightsAndBiases

RECORD = {"step": 1, "loss": 1.5, "t2i_r1": math.nan}


def test_what_is_not_finite_is_null_because_json_has_no_nan(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl", 0)
    assert lines.last() == {}
    lines.write(1, RECORD)
    lines.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 1.5, "t2i_r1": None}


def test_going_on_drops_the_lines_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path, 0)
    for step in (1, 10, 20, 30):
        lines.write(step, {"step": step})
    lines.close()
    with open(path, "a") as file:
        file.write('{"step": 31, "lo')  # the process was killed here
    lines = JsonLines(path, 10)
    assert lines.last()["step"] == 10
    lines.write(20, {"step": 20})
    lines.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 10, 20]


def test_tensorboard_events_are_written(tmp_path):
    events = TensorBoard(tmp_path / "tensorboard", 0)
    events.write(1, RECORD)
    events.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in file.read_bytes()
    assert b"train/t2i_r1" not in file.read_bytes()


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package, which notes what it is told."""
    told = []
    run = types.SimpleNamespace(
        log=lambda record, step: told.append((step, record)), finish=lambda: told.append("finished")
    )

    def init(**settings):
        told.append(settings)
        return run

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return told


def test_weights_and_biases_gets_the_same_and_goes_on_with_the_same_run(wandb, tmp_path):
    for _ in range(2):
        sink = WeightsAndBiases(tmp_path, "captions", {"batch_size": 32})
        sink.write(1, RECORD)
        sink.close()
    first, record, finished, second, *_ = wandb
    assert first["project"] == "captions"
    assert first["config"] == {"batch_size": 32}
    assert first["resume"] == "allow"
    assert first["id"] == second["id"]
    assert record == (1, {"train/step": 1, "train/loss": 1.5, "train/t2i_r1": None})
    assert finished == "finished"


def test_without_weights_and_biases_it_says_what_to_do(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "wandb":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match="pip install wandb"):
        WeightsAndBiases(tmp_path, "captions", {})
