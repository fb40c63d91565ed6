"""Draws a small line chart as SVG: colours come from the page's style, text from the page's font."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 50, 30  # room for tick labels, the last tick, title with legend, steps


def line_chart(title: str, series: Mapping[str, Sequence[Point]], *, percent: bool = False) -> str:
    """A chart of lines over steps, as an `<svg>` element.

    Points that are not finite are left out. Where there is more than one line, a legend stands under the title.

    Args:
        title: what is shown; also the chart's name for screen readers.
        series: {name: [(step, value), ...]}, steps rising.
        percent: values are fractions: the axis goes from 0 and is labelled in percent.

    Raises:
        ValueError: there is no finite point.
    """
    lines = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    points = [point for line in lines.values() for point in line]
    if not points:
        raise ValueError(f"line_chart: must have at least one finite point, found none for {title!r}.")
    x_ticks = ticks(0.0, max(x for x, _ in points))
    y_ticks = ticks(0.0 if percent else min(y for _, y in points), max(y for _, y in points))
    frame = _Frame(max(x for x, _ in points), y_ticks[0], y_ticks[-1])
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>',
        *(_across(frame, value, f"{value:.0%}" if percent else f"{value:g}") for value in y_ticks),
        *(_down(frame, value) for value in x_ticks if value <= frame.x_max),
        *(_line(frame, number, name, line) for number, (name, line) in enumerate(lines.items()) if line),
        *(_legend(list(lines)) if len(lines) > 1 else []),
        "</svg>",
    ]
    return "\n".join(parts)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover low to high, about as many as asked for.

    >>> ticks(0.0, 187.0)
    [0.0, 50.0, 100.0, 150.0, 200.0]
    """
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


class _Frame:
    """Values to places in the drawing."""

    def __init__(self, x_max: float, y_min: float, y_max: float) -> None:
        self.x_max, self._y_min, self._y_max = x_max or 1.0, y_min, y_max

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / self.x_max

    def y(self, value: float) -> float:
        share = (value - self._y_min) / (self._y_max - self._y_min)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def _across(frame: _Frame, value: float, label: str) -> str:
    y = frame.y(value)
    return (
        f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>'
    )


def _down(frame: _Frame, value: float) -> str:
    label = f"{value:g}" + (" steps" if value == 0 else "")
    return (
        f'<text class="tick" x="{frame.x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
        f"{escape(label)}</text>"
    )


def _line(frame: _Frame, number: int, name: str, points: Sequence[Point]) -> str:
    places = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    return f'<polyline class="line line-{number}" points="{places}"><title>{escape(name)}</title></polyline>'


def _legend(names: Sequence[str]) -> list[str]:
    """Names side by side under the title, each behind a stroke of its colour."""
    parts, left = [], LEFT
    for number, name in enumerate(names):
        parts.append(f'<path class="line line-{number}" d="M{left} 32h20"/>')
        parts.append(f'<text class="tick" x="{left + 26}" y="36">{escape(name)}</text>')
        left += 50 + 7 * len(name)  # about the width of the text
    return parts
