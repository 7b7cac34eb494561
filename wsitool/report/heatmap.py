"""The probability of one class over the picture of a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.report.figure import new_figure, save_figure
from wsitool.report.texts import literal

__all__ = ["DRAWN_SIDE", "draw_heatmap", "heat"]

_LONGEST_INCHES = 9.0
_DOTS_PER_INCH = 140
DRAWN_SIDE = round(_LONGEST_INCHES * _DOTS_PER_INCH)  # pixels of the longer side of the picture itself
# So that tissue shows through.
_SHADE = 0.55


def heat(
    shape: tuple[int, int],
    downsample: tuple[float, float],
    coords: NDArray[np.int64],
    size_level0: float,
    values: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mean of `values` (N,) of the patches over each pixel of a picture of `shape` (h, w); NaN where none is.

    `coords` (N, 2) are level-0 corners, `downsample` (fx, fy) level-0 pixels per pixel of the picture.
    """
    # Two passes over the patches: overlapping ones are averaged.
    total, count = np.zeros(shape), np.zeros(shape)
    first = np.floor(coords / np.array(downsample)).astype(np.int64)
    # to the next patch's first pixel, so that neighbours neither overlap nor leave a gap
    last = np.maximum(np.floor((coords + size_level0) / np.array(downsample)).astype(np.int64), first + 1)
    for (x0, y0), (x1, y1), value in zip(first.tolist(), last.tolist(), values.tolist(), strict=True):
        total[y0:y1, x0:x1] += value
        count[y0:y1, x0:x1] += 1
    mean: NDArray[np.float64] = np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)
    return mean


def draw_heatmap(
    path: str | Path,
    thumbnail: NDArray[np.uint8],
    heat_map: NDArray[np.float64],
    *,
    title: str,
) -> None:
    """Write a PNG of `heat_map` (h, w), probabilities or NaN, over `thumbnail` (h, w, 3)."""
    height, width = thumbnail.shape[:2]
    scale = _LONGEST_INCHES / max(height, width)
    # Room for the colour bar and the title.
    figure = new_figure(max(3.0, width * scale) + 1.2, max(2.5, height * scale) + 0.4, dpi=_DOTS_PER_INCH)
    axes = figure.add_subplot()
    # a small slide has a thumbnail of few pixels: smooth, it can be recognised
    magnified = max(height, width) < DRAWN_SIDE
    axes.imshow(thumbnail, interpolation="bicubic" if magnified else "antialiased")
    # Masked, not 0: places without a patch keep the slide's own colour.
    shown = axes.imshow(
        np.ma.masked_invalid(heat_map), cmap="turbo", vmin=0, vmax=1, alpha=_SHADE, interpolation="nearest"
    )
    axes.set_axis_off()
    axes.set_title(literal(title), fontsize=10)
    bar = figure.colorbar(shown, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("probability", fontsize=9)
    save_figure(path, figure)
