"""Bars and histograms as markup: colours come from the page's style."""

from collections.abc import Mapping, Sequence

import numpy as np

from trainer.report.curve import ticks
from trainer.report.markup import escape

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 50, 30
BINS = 40


def histogram(title: str, groups: Mapping[str, np.ndarray], *, bins: int = BINS) -> str:
    """Groups of values over one range, each as shares of its own number, as an `<svg>` element.

    Args:
        title: what is shown; also the chart's name for screen readers.
        groups: {name: float [n]}; values that are not finite are left out.
        bins: of the range from the smallest value to the largest.

    Raises:
        ValueError: there is no finite value.
    """
    finite = {name: values[np.isfinite(values)] for name, values in groups.items()}
    everything = np.concatenate([values.astype(np.float64) for values in finite.values()])
    if not len(everything):
        raise ValueError(f"histogram: must have at least one finite value, found none for {title!r}.")
    low, high = float(everything.min()), float(everything.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    return counted(
        title, low, high, {name: np.histogram(values, edges)[0] for name, values in finite.items()}
    )


def counted(title: str, low: float, high: float, groups: Mapping[str, np.ndarray]) -> str:
    """The same of values that were counted already.

    Args:
        title: as of `histogram`.
        low, high: where the first bin begins and the last one ends.
        groups: {name: int [n]}, how many values lie in each of n equal bins.
    """
    shares = {name: counts / max(counts.sum(), 1) for name, counts in groups.items()}
    tallest = max(float(share.max()) for share in shares.values())
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>',
        *(_across(value, tallest) for value in ticks(0.0, tallest, 4) if value <= tallest * 1.001),
        *(_below(value, low, high) for value in ticks(low, high) if low <= value <= high),
        *(_area(number, name, share, tallest) for number, (name, share) in enumerate(shares.items())),
        *(legend(list(shares)) if len(shares) > 1 else []),
        "</svg>",
    ]
    return "\n".join(parts)


def bar_table(columns: Sequence[str], rows: Sequence[tuple[Sequence[str], float, str]]) -> str:
    """A table whose last column is a bar.

    Args:
        columns: headings, the bar's own the last.
        rows: (cells, the bar's length from 0 to 1, what is written beside it).
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + f"<td>{_bar(length, word)}</td></tr>"
        for cells, length, word in rows
    )
    return f'<table class="bars">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'


def legend(names: Sequence[str]) -> list[str]:
    """Names side by side under a chart's title, each behind a square of its colour."""
    parts, left = [], LEFT
    for number, name in enumerate(names):
        parts.append(f'<rect class="area area-{number}" x="{left}" y="25" width="14" height="14"/>')
        parts.append(f'<text class="tick" x="{left + 20}" y="36">{escape(name)}</text>')
        left += 44 + 7 * len(name)  # about the width of the text
    return parts


def _bar(length: float, word: str) -> str:
    share = 100 * min(max(length, 0.0), 1.0)
    return f'<span class="bar"><i style="width:{share:.1f}%"></i></span><b>{escape(word)}</b>'


def _x(value: float, low: float, high: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)


def _y(share: float, tallest: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share / tallest


def _across(value: float, tallest: float) -> str:
    y = _y(value, tallest)
    return (
        f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * value:g}%</text>'
    )


def _below(value: float, low: float, high: float) -> str:
    return (
        f'<text class="tick" x="{_x(value, low, high):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
        f"{value:g}</text>"
    )


def _area(number: int, name: str, shares: np.ndarray, tallest: float) -> str:
    """A stepped outline, filled."""
    width = (WIDTH - LEFT - RIGHT) / len(shares)
    steps = " ".join(
        f"V{_y(float(share), tallest):.1f}H{LEFT + (place + 1) * width:.1f}"
        for place, share in enumerate(shares)
    )
    floor = HEIGHT - BOTTOM
    return (
        f'<path class="area area-{number}" d="M{LEFT} {floor} {steps} V{floor}Z">'
        f"<title>{escape(name)}</title></path>"
    )
