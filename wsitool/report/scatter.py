"""A map of points, coloured by what they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.report.figure import new_figure, save_figure
from wsitool.report.texts import literal

__all__ = ["save_scatter"]

_LEGEND = 20
_LEGEND_LETTERS = 40


def save_scatter(
    path: Path,
    points: NDArray[np.float64],
    groups: NDArray[np.int64],
    names: Sequence[str],
    *,
    title: str,
) -> None:
    """Draw `points` (N, 2) in the colour of their group (N,) into a PNG file, complete or not at all.

    Groups without points are left out of the legend, and so is the legend where it would have over 20 lines.
    """
    from matplotlib import colormaps

    figure = new_figure(7, 5.5, dpi=120)
    axis = figure.subplots()
    present = np.unique(groups)
    palette = colormaps["tab20" if len(present) > 10 else "tab10"]
    # In random order: drawn group by group, the last would hide the others.
    order = np.random.default_rng(0).permutation(len(points))
    color_of = {int(group): palette(rank % palette.N) for rank, group in enumerate(present)}
    colors = [color_of[int(group)] for group in groups[order]]
    axis.scatter(points[order, 0], points[order, 1], s=9, c=colors, alpha=0.7, linewidths=0)
    if len(present) <= _LEGEND:
        for group in present:
            # Empty scatters: the legend has one entry a group, though all points were drawn at once.
            axis.scatter(
                [],
                [],
                s=20,
                color=color_of[int(group)],
                label=literal(names[int(group)], most=_LEGEND_LETTERS),
            )
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axis.set_title(literal(title), fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])
    save_figure(path, figure)
