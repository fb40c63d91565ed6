"""Metrics are looked at one step late, logged every so often, and acted upon when they are bad."""

import json
import math

import pytest

from trainer.config import DataConfig, TrainConfig
from trainer.logs.diagnosis import BatchFacts
from trainer.logs.metrics import MetricsLog
from trainer.logs.notes import Diverged, Notes

CONFIG = TrainConfig(
    data=DataConfig(store=("S",)), output="R", batch_size=64, steps=1000, log_every=10
).resolved(640)
GOOD = {"loss": 1.0, "grad_norm": 0.5, "logit_scale": 10.0, "lr_factor": 0.5, "i2t_r1": 0.5, "t2i_r1": 0.5}
STUCK = {**GOOD, "loss": math.log(64), "i2t_r1": 0.0, "t2i_r1": 0.0}


@pytest.fixture
def asked() -> list[int]:
    """The steps (from 0) whose batch was looked at again."""
    return []


@pytest.fixture
def note(tmp_path, asked):
    def facts(step):
        asked.append(step)
        return BatchFacts(pairs=64, duplicates=0.5, captions=40, entropy=math.log(40))

    def make(speaks=True):
        log = MetricsLog(0, CONFIG.steps, CONFIG.batch_size, aloud=False)
        return Notes(
            CONFIG, log, lambda done: done / 10, lambda step: [f"id-{step}"], facts, tmp_path, speaks
        )

    return make


def run(note, steps, metrics):
    for done in steps:
        note.later(done, metrics)
    note.flush()


def test_the_first_every_tenth_and_the_last_are_logged(note):
    notes = note()
    logged = []
    for done in (1, 2, 9, 10, 11):
        run(notes, [done], GOOD)
        logged.append(notes.last["step"])
    assert logged == [1, 1, 1, 10, 10]
    assert notes.last["lr"] == 0.5 * CONFIG.optimizer.peak_rate
    assert notes.last["epoch"] == 1.0


def test_a_step_is_looked_at_when_the_next_is_under_way(note):
    notes = note()
    notes.later(1, GOOD)
    assert notes.last == {}
    notes.later(2, GOOD)
    assert notes.last["step"] == 1


def test_a_run_at_chance_is_told_why_after_its_warm_up_and_seldom(note, asked, capsys):
    run(note(), range(1, 1001), STUCK)
    said = capsys.readouterr().out
    # Twice the warm-up of 50 steps and 20 more; then each time after twice as many.
    assert asked == [119, 239, 479, 959]
    assert said.count("diagnosis: loss 4.159 is that of guessing (ln B = 4.159)") == 4
    assert "50% of the pairs share image or caption" in said


def test_a_run_that_learns_and_a_silent_process_are_told_nothing(note, asked, capsys):
    run(note(), range(1, 1001), GOOD)
    run(note(speaks=False), range(1, 1001), STUCK)
    assert asked == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("bad", [{"loss": math.nan}, {"grad_norm": math.inf}])
def test_what_is_no_number_stops_with_the_ids_written_once(note, tmp_path, bad):
    for speaks in (False, True):
        notes = note(speaks)
        notes.later(7, {**GOOD, **bad})
        with pytest.raises(Diverged, match="at step 7"):
            notes.flush()
        assert (tmp_path / "diverged-step-7.json").exists() == speaks
    assert json.loads((tmp_path / "diverged-step-7.json").read_text())["ids"] == ["id-6"]
