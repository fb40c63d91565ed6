"""Numbers go out whole, once per step, to every sink."""

import math

import pytest

from trainer.logs import metrics
from trainer.logs.metrics import MetricsLog, console_line

STEP = {"loss": 1.5, "grad_norm": 0.5, "logit_scale": 10.0, "lr": 1e-3, "i2t_r1": 0.25, "t2i_r1": 0.5}


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self):
        self.records = []

    def write(self, step, record):
        self.records.append((step, dict(record)))

    def close(self):
        self.records.append("closed")


def test_a_line_holds_the_metrics_and_the_rates(capsys):
    kept = Kept()
    log = MetricsLog(0, 100, 32, tokens_per_pair=16, sinks=[kept])
    log.waited(0.0)
    returned = log.write(10, STEP)
    log.close()
    (step, record), closed = kept.records
    assert (step, closed) == (10, "closed")
    assert record["samples_seen"] == 320
    assert record["loss"] == returned["loss"] == 1.5
    assert record["samples_per_second"] > 0
    assert record["tokens_per_second"] == pytest.approx(16 * record["samples_per_second"])
    assert record["data_wait_share"] == 0.0
    assert 10_000_000 < record["memory_bytes"] < 2**45
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "step 10/100 | loss 1.5000 | batch recall@1 25.0% 50.0% | scale 10.00" in said


def test_an_evaluation_is_in_no_rate_and_in_what_is_to_come(monkeypatch, capsys):
    clock = iter([100.0, 140.0, 145.0])  # five steps and 35 s without any; then five steps
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    log = MetricsLog(10, 30, 8)
    log.paused(35.0)
    first = log.write(15, STEP)
    second = log.write(20, STEP)
    assert first["samples_per_second"] == second["samples_per_second"] == 8.0  # 5 steps of 8 in 5 s
    said = capsys.readouterr().out.splitlines()
    assert [line.rsplit(" ", 1)[1] for line in said] == [
        "0:02:00",
        "0:00:45",
    ]  # 15 x (1 + 7), 10 x (1 + 3.5) s


def test_of_several_processes_the_others_are_silent(capsys):
    assert MetricsLog(0, 100, 32, aloud=False).write(1, {**STEP, "i2t_r1": math.nan})["i2t_r1"] is None
    assert capsys.readouterr().out == ""


def test_the_console_line_says_all_there_is():
    rates = {"step": 5, "samples_seen": 50, "samples_per_second": 1234.5, "data_wait_share": 0.013}
    parts = {"grad_norm_backbone": 0.4, "grad_norm_head": 0.3, "logit_bias": -9.5}
    record = {**STEP, **rates, **parts, "tokens_per_second": 19752.0, "memory_bytes": 3 * 2**29}
    line = console_line(record, 1000, 3725)
    assert "bias -9.50 | grad 0.5 (backbone 0.4, head 0.3) | lr 1.00e-03" in line
    assert line.endswith(
        "1,234 pairs/s | 19,752 tokens/s | data wait 1.3% | memory 1.50 GiB | 50 pairs seen | ETA 1:02:05"
    )
