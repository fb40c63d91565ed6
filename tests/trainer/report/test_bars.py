"""Histograms and bars: shares where they belong, texts escaped."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from trainer.report.bars import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, bar_table, histogram


def test_a_histogram_s_steps_stand_on_the_frame() -> None:
    svg = histogram("t", {"a": np.array([0.0, 0.0, 0.0, 1.0])}, bins=2)
    (path,) = re.findall(r'<path class="area[^"]*" d="([^"]*)"', svg)
    floor, middle = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
    third = floor - (floor - TOP) / 3  # a quarter of the values beside three quarters
    assert path == f"M{LEFT} {floor} V{TOP:.1f}H{middle:.1f} V{third:.1f}H{WIDTH - RIGHT:.1f} V{floor}Z"


def test_groups_are_shares_of_their_own_number_over_one_range() -> None:
    svg = histogram("t", {"few": np.array([0.0, 1.0]), "many": np.repeat([1.0, 2.0], 50)}, bins=4)
    paths = re.findall(r'<path class="area area-(\d)" d="([^"]*)"', svg)
    tops = [[float(y) for y in re.findall(r"V([\d.]+)H", path)] for _, path in paths]
    assert [number for number, _ in paths] == ["0", "1"]
    assert tops[0] == [TOP, HEIGHT - BOTTOM, TOP, HEIGHT - BOTTOM]  # half of it at 0, half at 1
    assert tops[1] == [HEIGHT - BOTTOM, HEIGHT - BOTTOM, TOP, TOP]
    assert "many</text>" in svg


@pytest.mark.parametrize("values", [[3.0, 3.0], [float("nan"), 1.0, np.inf], [-1e-12, 1e-12]])
def test_strange_values_are_drawn(values: list[float]) -> None:
    svg = histogram("<t>", {"a": np.array(values)})
    ET.fromstring(svg)
    assert "&lt;t&gt;" in svg
    assert "nan" not in svg


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="at least one finite value"):
        histogram("t", {"a": np.array([np.nan])})


def test_bars_are_as_long_as_they_say() -> None:
    made = bar_table(("class", "top-1"), [(("<b>",), 0.25, "25 %"), (("all",), 2.0, "much")])
    assert re.findall(r"width:([\d.]+)%", made) == ["25.0", "100.0"]
    assert "&lt;b&gt;" in made
    ET.fromstring(made)
