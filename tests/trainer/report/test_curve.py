"""The chart: points where they belong, ticks round, texts escaped."""

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest

from trainer.report.curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, line_chart, ticks


def polylines(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, point.split(","))) for point in found.split()]  # type: ignore[misc]
        for found in re.findall(r'<polyline[^>]* points="([^"]*)"', svg)
    ]


def test_points_lie_on_the_frame() -> None:
    svg = line_chart("recall", {"one": [(0, 0.0), (50, 0.5), (100, 1.0)]}, percent=True)
    (points,) = polylines(svg)
    left, right, low, high = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, TOP
    assert points == [(left, low), ((left + right) / 2, (low + high) / 2), (right, high)]
    assert "100%" in svg


def test_it_is_xml_with_escaped_texts() -> None:
    root = ET.fromstring(line_chart("<loss> & more", {"a<b": [(1, 2.0), (2, 1.0)], '"c"': [(1, 1.0)]}))
    texts = ["".join(text.itertext()) for text in root.iter("text")]
    assert texts[0] == "<loss> & more"
    assert {"a<b", '"c"'} <= set(texts)


def test_one_line_needs_no_legend() -> None:
    assert "loss-name</text>" not in line_chart("t", {"loss-name": [(0, 1.0), (1, 2.0)]})


def test_values_that_are_not_finite_are_left_out() -> None:
    (points,) = polylines(line_chart("t", {"loss": [(0, 2.0), (1, math.nan), (2, math.inf), (3, 1.0)]}))
    assert len(points) == 2
    with pytest.raises(ValueError, match="at least one finite point"):
        line_chart("t", {"loss": [(0, math.nan)]})


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (3.59, 6.97), (5, 5), (0, 0), (-2, -1.5), (0, 187), (1e-7, 3e-7)]
)
def test_ticks_are_even_and_cover_the_range(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low + 1e-12
    assert found[-1] >= high - 1e-12
    assert 2 <= len(found) <= 8
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert max(steps) == pytest.approx(min(steps))


def test_a_run_of_one_logged_step_is_drawn() -> None:
    assert polylines(line_chart("t", {"loss": [(1, 3.0)]}))
