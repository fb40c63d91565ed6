"""Reports of lit-eval as tables: for the terminal and for the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from demo.page import Table
from trainer.report.curve import line_chart

KS = ("r1", "r5", "r10")
DIRECTIONS = {"i2t": "picture → caption", "t2i": "caption → picture"}
COLUMNS = ("", "recall@1", "recall@5", "recall@10")


def retrieval_table(name: str, report: Mapping[str, Any]) -> Table:
    """Recall both ways, with what guessing would give."""
    candidates = report["n_images"]
    rows = [[direction, *(percent(report[side][k]) for k in KS)] for side, direction in DIRECTIONS.items()]
    chance = ["by chance", *(percent(min(1.0, k / candidates)) for k in (1, 5, 10))]
    return Table(f"{name}: {candidates:,} pictures among each other", COLUMNS, rows, chance)


def zero_shot_table(report: Mapping[str, Any], names: Sequence[str]) -> Table:
    """Accuracy of zero-shot classification."""
    rows = [
        ["right class first", percent(report["top1"])],
        ["mean over the classes", percent(report["mean_per_class"])],
    ]
    chance = ["by chance", percent(1 / report["n_classes"])]
    note = "Classes: " + ", ".join(names) + ". Which is right was read off the names."
    caption = f"Zero-shot: {report['n']:,} unseen pictures of {len(names)} kinds"
    return Table(caption, ("", "accuracy"), rows, chance, note)


def percent(fraction: float) -> str:
    """
    >>> percent(0.4567)
    '45.7 %'
    """
    return f"{100 * fraction:.1f} %"


def as_text(table: Table) -> str:
    """A table for the terminal, its numbers right-aligned."""
    cells = [list(row) for row in (table.columns, *table.rows, table.chance) if row]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.columns))]
    lines = [
        "  "
        + row[0].ljust(widths[0])
        + "".join(cell.rjust(width + 3) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in cells
    ]
    return "\n".join([table.caption, *(line.rstrip() for line in lines)])


def training_charts(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """The loss, and recall@1 inside the batch, over the steps that were logged."""

    def points(name: str) -> list[tuple[float, float]]:
        return [(one["step"], one[name]) for one in metrics if one.get(name) is not None]

    recall = {"picture → caption": points("i2t_r1"), "caption → picture": points("t2i_r1")}
    charts = [line_chart("Loss", {"loss": points("loss")})]
    if any(recall.values()):
        charts.append(line_chart("Recall@1 inside the training batch", recall, percent=True))
    return charts
