"""A confusion matrix as a picture: shares of each true class as colour, counts as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.report.colors import INK, hex_of
from wsitool.report.figure import new_figure, save_figure
from wsitool.report.texts import literal

__all__ = ["draw_confusion"]

_TEXT_LIMIT = 0.55  # cells darker than this carry white text
_LETTERS = 40


def draw_confusion(
    path: str | Path, counts: NDArray[np.integer], classes: Sequence[str], *, title: str = ""
) -> None:
    """Write a PNG of `counts` (K, K), row = true class, column = predicted class.

    Colour is the share of each true class, so that a rare class shows as well as a common one.
    """
    size = 2.6 + 0.85 * len(classes)
    figure = new_figure(size + 0.6, size, dpi=130)
    axes = figure.add_subplot()
    # A class without patches has a row of zeros and not of NaN.
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    axes.imshow(share, cmap="PuRd", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        axes.text(
            column,
            row,
            f"{counts[row, column]:,}\n{share[row, column]:.0%}",
            ha="center",
            va="center",
            color="white" if share[row, column] > _TEXT_LIMIT else hex_of(INK),
        )
    names = [literal(name, most=_LETTERS) for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    # Minor ticks between cells, for the white lines that part them.
    axes.set_xticks(np.arange(len(classes) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(literal(title), fontsize=11)
    save_figure(path, figure)
