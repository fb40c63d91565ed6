"""Curves of a run: what the training logged, and what it evaluated on the way."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.report.curve import Point, line_chart

MOST_POINTS = 400  # of a line: more cannot be told apart
MOST_LINES = 4  # of a chart

# Title, the figures by legend, whether they are fractions. Titles are told once, whatever a run logged.
CHARTS: Sequence[tuple[str, Mapping[str, str], bool]] = (
    ("Loss", {"loss": "loss"}, False),
    ("Scale", {"scale": "logit_scale"}, False),
    ("Bias", {"bias": "logit_bias"}, False),
    ("Recall@1 inside the batch", {"image → text": "i2t_r1", "text → image": "t2i_r1"}, True),
    ("Gradient norm", {"gradient": "grad_norm"}, False),
    ("Learning rate", {"rate": "lr"}, False),
)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a JSON-lines file; none where there is no file. Half a line at the end is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return [record for record in records if isinstance(record, dict) and "step" in record]


def training_charts(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """A chart per kind of figure that was logged."""
    charts = []
    for title, figures, percent in CHARTS:
        series = {name: points(metrics, key) for name, key in figures.items()}
        if any(series.values()):
            charts.append(line_chart(title, series, percent=percent))
    return charts


def evaluation_charts(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """A chart per evaluation that ran while training, of its first figures."""
    names = list(dict.fromkeys(key.split("/")[0] for one in evaluations for key in one if "/" in key))
    charts = []
    for name in names:
        keys = list(dict.fromkeys(key for one in evaluations for key in one if key.startswith(f"{name}/")))
        chosen = _first_figures(keys)
        series = {_legend(key.partition("/")[2]): points(evaluations, key) for key in chosen}
        if any(series.values()):
            charts.append(line_chart(f"{name}, while training", series, percent=True))
    return charts


def points(records: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """(step, value) of the records that have the figure, thinned evenly; the last one stays."""
    found = [(float(one["step"]), float(one[name])) for one in records if one.get(name) is not None]
    stride = max(1, -(-len(found) // MOST_POINTS))
    return found[::stride] + (found[-1:] if found and (len(found) - 1) % stride else [])


def _legend(figure: str) -> str:
    """
    >>> _legend("t2i_r1"), _legend("mean_per_class")
    ('text → image recall@1', 'mean per class')
    """
    for ours, words in (
        ("i2t_r", "image → text recall@"),
        ("t2i_r", "text → image recall@"),
        ("top", "top-"),
    ):
        if figure.startswith(ours):
            return words + figure.removeprefix(ours)
    return figure.replace("_", " ")


def _first_figures(keys: list[str]) -> list[str]:
    """Recall@1 both ways, top1 and mean per class: what stands for an evaluation; else its first figures."""
    wanted = [key for key in keys if key.endswith(("_r1", "/top1", "/mean_per_class"))]
    return (wanted or keys)[:MOST_LINES]
