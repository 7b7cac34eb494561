"""Learning curves as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsitool.report.figure import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Curve", "Panel", "moving_average", "save_curves"]

# Panels.
_PER_ROW = 3


@dataclass(frozen=True, kw_only=True)
class Curve:
    """`y` over `x`; `smooth` also draws a moving average, for curves of single steps."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    smooth: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves that share an axis; `chance` is drawn as the line of a model that learned nothing."""

    title: str
    curves: Sequence[Curve]
    chance: float | None = None
    log: bool = False


def save_curves(path: Path, panels: Sequence[Panel], *, x_label: str = "step") -> None:
    """Draw `panels`, three to a row, into a PNG file, complete or not at all."""
    from matplotlib.ticker import MaxNLocator

    columns = min(len(panels), _PER_ROW)
    # The last row may be short.
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(4.6 * columns, 3.2 * rows, dpi=110)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    # More axes than panels in it: the surplus is removed below.
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel)
        axis.set_xlabel(x_label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no half epoch
    for axis in axes[len(panels) :]:
        axis.remove()
    save_figure(path, figure)


def _draw(axis: Axes, panel: Panel) -> None:
    for index, curve in enumerate(panel.curves):
        color = f"C{index}"
        # Behind the average, pale: the noise itself is of interest.
        if curve.smooth and len(curve.y) > 20:
            axis.plot(curve.x, curve.y, color=color, alpha=0.25, linewidth=0.8)
            axis.plot(curve.x, moving_average(curve.y), color=color, label=curve.label)
        else:
            # Few points are marked, since a single one makes no line.
            marker = "o" if len(curve.y) < 20 else None
            axis.plot(curve.x, curve.y, color=color, label=curve.label, marker=marker, markersize=3)
    if panel.chance is not None:
        axis.axhline(panel.chance, color="grey", linestyle=":", linewidth=1, label="chance")
    if panel.log:
        axis.set_yscale("log")
    axis.set_title(panel.title, fontsize=10)
    axis.grid(alpha=0.3)
    if len(panel.curves) > 1 or panel.chance is not None:
        axis.legend(fontsize=8)


def moving_average(values: Sequence[float]) -> list[float]:
    """Exponential, with the start's bias removed; about a twentieth of the curve wide."""
    # Bias as in Adam: the average starts at zero and is divided by the weight it has so far.
    keep = 1 - 1 / max(2.0, len(values) / 20)
    total, weight, smooth = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        smooth.append(total / weight)
    return smooth
