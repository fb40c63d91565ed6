"""Curves from log lines: thinned, half lines left out, one chart an evaluation."""

import json
from pathlib import Path

from trainer.report.curves import MOST_POINTS, evaluation_charts, points, read_lines, training_charts


def test_half_a_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo', encoding="utf-8")
    assert read_lines(path) == [{"step": 1, "loss": 2.0}]
    assert read_lines(tmp_path / "none.jsonl") == []


def test_long_lines_are_thinned_and_keep_their_end() -> None:
    found = points([{"step": step, "loss": float(step)} for step in range(1, 10_001)], "loss")
    assert len(found) <= MOST_POINTS + 1
    assert (found[0], found[-1]) == ((1.0, 1.0), (10_000.0, 10_000.0))
    assert points([{"step": 1, "loss": None}, {"step": 2}], "loss") == []


def test_only_what_was_logged_is_drawn() -> None:
    charts = training_charts([{"step": 1, "loss": 1.0, "logit_scale": 10.0}, {"step": 2, "loss": 0.5}])
    assert [chart.partition('aria-label="')[2].partition('"')[0] for chart in charts] == ["Loss", "Scale"]
    record = {
        "step": 5,
        "coco/i2t_r1": 0.1,
        "coco/t2i_r1": 0.2,
        "coco/i2t_r5": 0.5,
        "pets/top1": 0.3,
        "measure": 0.2,
    }
    charts = evaluation_charts([record])
    assert len(charts) == 2
    assert "text → image recall@1</text>" in charts[0]
    assert "r5" not in charts[0]
