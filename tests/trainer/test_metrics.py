"""Numbers go out whole, once per step, and survive being cut off."""

import builtins
import json
import math

from trainer.metrics import MetricsLog, console_line

STEP = {"loss": 1.5, "grad_norm": 0.5, "logit_scale": 10.0, "lr": 1e-3, "i2t_r1": 0.25, "t2i_r1": 0.5}


def steps_in(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_holds_the_metrics_and_the_rates(tmp_path, capsys):
    log = MetricsLog(tmp_path, 0, 100, 32, tensorboard=False)
    log.waited(0.0)
    log.write(10, STEP)
    log.close()
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert record["samples_seen"] == 320
    assert record["loss"] == 1.5
    assert record["samples_per_second"] > 0
    assert record["data_wait_share"] == 0.0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "step 10/100 | loss 1.5000 | batch recall@1 25.0% 50.0% | scale 10.00" in said


def test_what_is_not_finite_is_null_because_json_has_no_nan(tmp_path):
    log = MetricsLog(tmp_path, 0, 100, 32, tensorboard=False)
    log.write(1, {**STEP, "i2t_r1": math.nan})
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["i2t_r1"] is None


def test_going_on_drops_the_lines_after_the_checkpoint(tmp_path):
    log = MetricsLog(tmp_path, 0, 100, 32, tensorboard=False)
    for step in (1, 10, 20, 30):
        log.write(step, STEP)
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 31, "lo')  # the process was killed here
    log = MetricsLog(tmp_path, 10, 100, 32, tensorboard=False)
    assert log.last_record()["step"] == 10
    log.write(20, STEP)
    log.close()
    assert steps_in(tmp_path) == [1, 10, 20]


def test_tensorboard_events_are_written(tmp_path):
    log = MetricsLog(tmp_path, 0, 100, 32)
    log.write(1, {**STEP, "t2i_r1": math.nan})
    log.close()
    events = list((tmp_path / "tensorboard").iterdir())
    assert len(events) == 1
    assert b"train/loss" in events[0].read_bytes()
    assert b"train/t2i_r1" not in events[0].read_bytes()


def test_without_tensorboardx_it_says_so_and_goes_on(tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *rest):
        if name == "tensorboardX":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    log = MetricsLog(tmp_path, 0, 100, 32)
    log.write(1, STEP)
    log.close()
    assert "install tensorboardX" in capsys.readouterr().out


def test_the_console_line_shows_the_bias_where_there_is_one():
    rates = {"step": 5, "samples_seen": 50, "samples_per_second": 1234.5, "data_wait_share": 0.013}
    line = console_line({**STEP, **rates, "logit_bias": -9.5}, 1000, 3725)
    assert "bias -9.50" in line
    assert line.endswith("1,234 pairs/s | data wait 1.3% | 50 pairs seen | ETA 1:02:05")
