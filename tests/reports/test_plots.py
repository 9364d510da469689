"""Axes and plots."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saescope.reports.plots import Bars, Figure, Line
from saescope.reports.scales import Scale, nice_ticks, readable


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_cover_the_range_evenly(low: float, width: float) -> None:
    high = low + width
    if not high > low + abs(low) * 1e-9:
        return
    ticks = nice_ticks(low, high)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + step * 1e-6
    assert ticks[-1] >= high - step * 1e-6
    assert 2 <= len(ticks) <= 13


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (1000, "1k"),
        (250_000, "250k"),
        (1.5e6, "1.5M"),
        (1e-5, "1e-5"),
        (999, "999"),
        (-2000, "-2k"),
    ],
)
def test_readable_numbers(value: float, shown: str) -> None:
    assert readable(value) == shown


def test_logarithmic_scale() -> None:
    scale = Scale(1e-4, 1.0, 0, 100, log=True)
    assert scale(1e-2) == pytest.approx(50)
    assert scale.ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert Scale(0.2, 3, 0, 1, log=True).ticks() == pytest.approx([0.2, 0.5, 1, 2])


def test_a_curve_goes_through_its_points() -> None:
    drawn = Figure("T", "x", "s", lines=[Line("a", [(0, 0.0), (5, 0.5), (10, 1.0)])]).svg()
    path = re.search(r'class="line s0" d="([^"]+)"', drawn)
    assert path is not None
    points = [tuple(map(float, point.split())) for point in re.split("[ML]", path[1])[1:]]
    assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2, abs=0.1)
    assert points[1][1] == pytest.approx((points[0][1] + points[2][1]) / 2, abs=0.1)
    assert points[0][1] > points[2][1]


def test_gaps_in_the_record_do_not_reach_the_drawing() -> None:
    drawn = Figure("T", "x", "s", lines=[Line("a", [(0, 1.0), (1, float("nan")), (2, 3.0)], marks=True)]).svg()
    assert "nan" not in drawn.lower()


def test_bars_are_as_high_as_their_counts() -> None:
    drawn = Figure("T", "x", "s", bars=[Bars("a", [0, 1, 2, 3], [10, 0, 5])]).svg()
    heights = [
        float(height)
        for height in re.findall(r'<rect class="bar s0" x="[\d.]+" y="[\d.]+" width="[\d.]+" height="([\d.]+)"', drawn)
    ]
    assert len(heights) == 2
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.02)


def test_nothing_recorded_says_so() -> None:
    assert "Nothing was recorded" in Figure("T", "x", "s", lines=[Line("a", [])]).svg()
    assert "Nothing was recorded" in Figure("T", "x", "s", bars=[Bars("a", [0, 1], [0])]).svg()


def test_a_single_point_can_be_drawn() -> None:
    assert "<circle" in Figure("T", "x", "s", lines=[Line("a", [(3, 3.0)], marks=True)]).svg()


def test_a_narrow_logarithmic_axis_still_has_ticks() -> None:
    ticks = Scale(29.0, 35.0, 0, 100, log=True).ticks()
    assert ticks
    assert all(29 <= tick <= 35 for tick in ticks)


def test_a_point_at_zero_leaves_a_logarithmic_axis_logarithmic() -> None:
    drawn = Figure(
        "T", "x", "s", lines=[Line("a", [(0, 1.0), (10, 2.0), (100, 3.0), (1000, 4.0)], marks=True)], log_x=True
    )
    places = [float(x) for x in re.findall(r'<circle class="dot s0" cx="([\d.]+)"', drawn.svg())]
    assert places[0] <= places[1]
    assert places[3] - places[2] == pytest.approx(places[2] - places[1], abs=0.2)
