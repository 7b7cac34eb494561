"""Accuracy against the share of labels, one curve with its confidence band for each arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsitool.report.colors import INK, PALETTE, hex_of
from wsitool.report.figure import new_figure, save_figure

__all__ = ["EfficiencyCurve", "draw_efficiency"]

_COLORS = tuple(map(hex_of, (INK, *PALETTE[:-1])))  # yellow lines are hard to see on white
_LINES = ("-", "--", "-.")


@dataclass(frozen=True, kw_only=True)
class EfficiencyCurve:
    """Values of one arm at `fractions` (0, 1]; `low` and `high` bound the band, None where there is none."""

    name: str
    fractions: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def draw_efficiency(
    path: str | Path, curves: Sequence[EfficiencyCurve], *, metric: str, mark: float | None = None
) -> None:
    """Write a PNG; `mark` is drawn as a dotted line (full supervision).

    Fractions are on a logarithmic axis. The file is complete or not there.
    """
    figure = new_figure(7.2, 4.4, dpi=130)
    axes = figure.add_subplot()
    for index, curve in enumerate(curves):
        color = _COLORS[index % len(_COLORS)]
        x = [100 * fraction for fraction in curve.fractions]
        # Colors that come again are told apart by their lines.
        line = _LINES[index // len(_COLORS) % len(_LINES)]
        axes.plot(x, curve.values, marker="o", markersize=4, color=color, linestyle=line, label=curve.name)
        if curve.low is not None and curve.high is not None:
            axes.fill_between(x, curve.low, curve.high, color=color, alpha=0.10, linewidth=0)
    if mark is not None:
        axes.axhline(mark, color="#777", linestyle=":", linewidth=1)
    ticks = sorted({100 * fraction for curve in curves for fraction in curve.fractions})
    # 5, 25, 50, 100 %: on a linear scale the small shares lie on one another.
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("share of the labels used")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False)
    save_figure(path, figure)
