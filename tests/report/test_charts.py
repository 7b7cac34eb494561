"""Charts of a page: right places, no failure for odd values, no markup from names."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from wsitool.report.charts import confusion_chart, curves_chart, reliability_chart
from wsitool.report.curves import Curve, Panel


def _curve(x: list[float], y: list[float], **more: object) -> Panel:
    return Panel(title="<b>loss</b>", curves=[Curve(label="a&b", x=x, y=y)], **more)  # type: ignore[arg-type]


def _heights(svg: str, kind: str) -> list[float]:
    (path,) = re.findall(rf'<path class="{kind}"[^>]* d="M([^"]+)"', svg)
    return [float(point.split()[1]) for point in path.split("L")]


def test_a_curve_falls_where_its_values_fall_and_texts_are_no_markup() -> None:
    svg = curves_chart(_curve([1, 2, 3], [4.0, 2.0, 1.0]), x_label="step").svg
    ElementTree.fromstring(svg)
    first, second, third = _heights(svg, "curve c0")
    assert first < second < third  # y grows downwards
    assert (second - first) / (third - second) == pytest.approx(2, rel=0.01)
    assert "&lt;b&gt;loss" in svg and "<b>" not in svg


def test_values_that_are_no_numbers_single_ones_and_none_are_drawn_or_left_out() -> None:
    odd = curves_chart(_curve([1, 2, 3], [math.nan, 2.0, math.inf]), x_label="step").svg
    assert len(_heights(odd, "curve c0")) == 1
    for y in ([], [math.nan]):
        assert "no values" in curves_chart(_curve([1.0] * len(y), y), x_label="step").svg
    assert "chance" in curves_chart(_curve([1, 2], [0.0, 0.0], chance=3.0), x_label="step").svg


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    panel = Panel(title="t", curves=[Curve(label="l", x=range(10_000), y=[*[1.0] * 9_999, 0.0])])
    heights = _heights(curves_chart(panel, x_label="step").svg, "curve c0")
    assert len(heights) < 500 and heights[-1] > heights[0]


def test_confusion_shows_counts_and_shares_of_the_true_class() -> None:
    svg = confusion_chart([[3, 1], [0, 0]], ["<i>", "b" * 60]).svg
    texts = ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("text")]
    assert texts.count("75%") == 1 and texts.count("25%") == 1 and "3" in texts
    assert texts.count("0%") == 2  # a class without patches
    assert "<i>" in texts and max(map(len, texts)) < 40


def test_reliability_has_a_point_for_each_bin() -> None:
    svg = reliability_chart([0.55, 0.95], [0.4, 1.0], [10, 90]).svg
    radii = [float(node.get("r", 0)) for node in ElementTree.fromstring(svg).iter("circle")]
    assert len(radii) == 2 and radii[0] < radii[1]
