"""Charts as SVG inside a page: curves, a confusion matrix. No library draws them, so they cost nothing.

Colours are the page's own (`page.html.jinja`), so that they suit a light and a dark ground.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from wsitool.report.curves import Curve, Panel, moving_average

__all__ = ["Chart", "confusion_chart", "curves_chart", "reliability_chart"]

_WIDTH, _HEIGHT = 380, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 26, 34
_MOST_POINTS = 400  # of a curve: there are not more pixels to tell them apart
_COLORS = 4
_CELL = 64
_LETTERS = 16


@dataclass(frozen=True, kw_only=True)
class Chart:
    """An `svg` element whose texts are escaped."""

    svg: str


def curves_chart(panel: Panel, *, x_label: str) -> Chart:
    """The curves of a panel in one pair of axes; values that are not finite are left out."""
    curves = [(curve.label, _points(curve), curve.smooth) for curve in panel.curves]
    usable = [(label, points, smooth) for label, points, smooth in curves if points]
    heights = [y for _, points, _ in usable for _, y in points]
    heights += [panel.chance] if panel.chance is not None and math.isfinite(panel.chance) else []
    parts = [_text(_LEFT, 15, panel.title, "title")]
    if not usable:
        return _chart([*parts, _text(_LEFT, _HEIGHT / 2, "no values")], _WIDTH, _HEIGHT, panel.title)
    axes = _Axes.around([x for _, points, _ in usable for x, _ in points], heights, log=panel.log)
    parts += axes.frame(x_label)
    if panel.chance is not None:
        y = axes.y(panel.chance)
        parts.append(f'<path class="chance" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(_text(_WIDTH - _RIGHT, y - 4, "chance", anchor="end"))
    for index, (label, points, smooth) in enumerate(usable):
        color = f"c{index % _COLORS}"
        if smooth and len(points) > 20:
            parts.append(axes.line(points, f"curve pale {color}"))
            averages = moving_average([y for _, y in points])
            points = [(x, y) for (x, _), y in zip(points, averages, strict=True)]
        parts.append(axes.line(points, f"curve {color}"))
        if len(points) < 20:
            parts += [
                f'<circle class="{color}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="2.2"/>'
                for x, y in points
            ]
        if len(usable) > 1:
            x = _WIDTH - _RIGHT - 104
            parts.append(f'<path class="curve {color}" d="M{x} {38 + 15 * index}h14"/>')
            parts.append(_text(x + 19, 42 + 15 * index, label))
    return _chart(parts, _WIDTH, _HEIGHT, panel.title)


def reliability_chart(confidence: Sequence[float], right: Sequence[float], count: Sequence[int]) -> Chart:
    """The share that was right over the probability given, a point for each bin as large as its patches."""
    title = "Does a probability mean what it says?"
    axes = _Axes(0, 1, 0, 1)
    parts = [_text(_LEFT, 15, title, "title"), *axes.frame("probability given to the called class")]
    parts.append(axes.line([(0, 0), (1, 1)], "chance"))
    parts.append(axes.line(list(zip(confidence, right, strict=True)), "curve c3"))
    total = max(1, sum(count))
    for x, y, number in zip(confidence, right, count, strict=True):
        radius = 2 + 9 * math.sqrt(number / total)
        told = f"{number:,} patches: {y:.0%} right at {x:.2f}"
        parts.append(
            f'<circle class="c3" fill-opacity=".6" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" '
            f'r="{radius:.1f}">'
            f"<title>{escape(told)}</title></circle>"
        )
    return _chart(parts, _WIDTH, _HEIGHT, title)


def confusion_chart(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Chart:
    """Counts, row = true class, column = called; the shade is the share of each true class."""
    names = [_short(name) for name in classes]
    left = 26 + 7 * max(map(len, names), default=1)
    width, height = left + _CELL * len(names) + 10, 62 + _CELL * len(names)
    parts = [_text(left, 15, "Called, of each true class", "title")]
    for column, name in enumerate(names):
        # Every second one lower, as neighbours' names would run into each other.
        parts.append(_text(left + _CELL * (column + 0.5), 34 + 13 * (column % 2), name, anchor="middle"))
    for row, name in enumerate(names):
        total = sum(counts[row])
        parts.append(_text(left - 8, 52 + _CELL * (row + 0.5) + 4, name, anchor="end"))
        for column, number in enumerate(counts[row]):
            share = number / total if total else 0.0
            x, y = left + _CELL * column, 52 + _CELL * row
            color = "c0" if row == column else "c1"
            parts.append(
                f'<rect class="{color}" x="{x + 1}" y="{y + 1}" width="{_CELL - 2}" height="{_CELL - 2}" '
                f'rx="5" fill-opacity="{0.06 + 0.5 * share:.2f}" stroke-opacity=".3"/>'
            )
            middle = x + _CELL / 2
            parts.append(_text(middle, y + _CELL / 2 - 1, f"{number:,}", "title in-cell", anchor="middle"))
            parts.append(_text(middle, y + _CELL / 2 + 14, f"{share:.0%}", anchor="middle"))
    return _chart(parts, width, height, "confusion matrix")


@dataclass(frozen=True)
class _Axes:
    """From values to pixels of a chart; `log` is of the heights."""

    x0: float
    x1: float
    y0: float
    y1: float
    log: bool = False

    @classmethod
    def around(cls, x: Sequence[float], y: Sequence[float], *, log: bool) -> _Axes:
        log = log and min(y) > 0
        low, high = (math.log10(min(y)), math.log10(max(y))) if log else (min(y), max(y))
        margin = 0.06 * (high - low) or max(abs(high) * 0.1, 1e-9)
        return cls(min(x), max(x) if max(x) > min(x) else min(x) + 1, low - margin, high + margin, log)

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x0) / (self.x1 - self.x0) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        height = math.log10(value) if self.log and value > 0 else value
        share = (height - self.y0) / (self.y1 - self.y0)
        return _TOP + (1 - min(1.0, max(0.0, share))) * (_HEIGHT - _TOP - _BOTTOM)

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> str:
        path = "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
        return f'<path class="{kind}" style="fill:none" d="M{path}"/>'

    def frame(self, x_label: str) -> list[str]:
        bottom = _HEIGHT - _BOTTOM
        parts = []
        for tick in _ticks(self.y0, self.y1):
            value = 10**tick if self.log else tick
            y = self.y(value)
            parts.append(f'<path class="axis" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
            parts.append(_text(_LEFT - 6, y + 4, f"{value:.3g}", anchor="end"))
        ticks = _ticks(self.x0, self.x1)
        parts += [_text(self.x(tick), bottom + 14, f"{tick:,.10g}", anchor="middle") for tick in ticks]
        parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 5, x_label, anchor="middle"))
        return parts


def _ticks(low: float, high: float) -> list[float]:
    """Some four round numbers between two."""
    rough = (high - low) / 4
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = math.ceil(low / step)
    # Rounded, as 3 * .1 is no .3.
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _points(curve: Curve) -> list[tuple[float, float]]:
    points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    step = -(-len(points) // _MOST_POINTS) or 1
    # With the last one, which is what a reader looks for.
    return points[::step] + (points[-1:] if (len(points) - 1) % step else [])


def _text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _chart(parts: Sequence[str], width: float, height: float, title: str) -> Chart:
    box = f"0 0 {width:.0f} {height:.0f}"
    head = f'<svg class="chart" viewBox="{box}" role="img" aria-label="{escape(title)}">'
    return Chart(svg=f"{head}{''.join(parts)}</svg>")
