"""How sharp each candidate is, from a small level of the slide.

Sharpness is the variance of the Laplacian of the grey picture (0-255) at about 2 um/px (Pech-Pacheco et al.,
doi:10.1109/ICPR.2000.903548).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wsitool.slides.grid import ReadPlan
from wsitool.slides.readers import TiledSlide
from wsitool.tiling.cutter import CutCounts, cut
from wsitool.tiling.executor import executor
from wsitool.tiling.level_view import LevelView

__all__ = ["SHARPNESS_MPP", "is_cheap", "laplacian_variance", "sharpness"]

SHARPNESS_MPP = 2.0
_DOWNSAMPLE_WITHOUT_MPP = 4.0
# Reading a level this much smaller than level 0 costs under a tenth of cutting the patches themselves.
_CHEAP_DOWNSAMPLE = 3.5
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)


def is_cheap(slide: TiledSlide) -> bool:
    """Whether the slide has a level so small that measuring sharpness on it costs little."""
    return slide.info.levels[_level(slide)].downsample >= _CHEAP_DOWNSAMPLE


def sharpness(
    slide: TiledSlide,
    coords: NDArray[np.int64],
    size_level0: float,
    mask: NDArray[np.bool_],
    *,
    threads: int = 1,
) -> NDArray[np.float32]:
    """(M,) sharpness of the `mask` (M,) patches at level-0 `coords` (M, 2), which are in (y, x) order.

    NaN for the others, and where pixels cannot be read: cutting the patches will say so. Each tile of the
    level is decoded once, shrunk by the decoder where it can.
    """
    scores = np.full(len(coords), np.nan, np.float32)
    rows = np.flatnonzero(mask)
    if not len(rows):
        return scores
    plan = _plan(slide)
    side = min(max(3, round(size_level0 / plan.downsample[0])), *plan.canvas)
    # Fast: the decoder's own shrinking will do for a score of blur.
    canvas = LevelView(slide.tiles(plan.level), plan, side, fast=True)
    # Rounded to the small level's pixels: half of one is 1 um.
    positions = np.rint(coords[rows] / np.array(plan.downsample)).astype(np.int64)
    # At the edge the window moves inward.
    positions = np.minimum(positions, np.array(plan.canvas) - side)
    corners = canvas.corners(positions)

    def finish(pixels: NDArray[np.uint8], indices: NDArray[np.int64]) -> NDArray[np.float32]:
        if canvas.resamples:
            pixels = canvas.finish(pixels, positions[indices], corners[indices])
        return laplacian_variance(pixels)

    with executor(threads) as pool:
        for block in cut(canvas, corners, canvas.cut_size, finish, pool=pool, counts=CutCounts()):
            if block.payload is not None:
                scores[rows[block.readable]] = block.payload
    return scores


def laplacian_variance(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Variance of the four-neighbour Laplacian inside each of (B, h, w, 3) uint8: (B,) float32.

    Grey levels 0 to 255, border pixels left out; at least 3 px a side.
    """
    # (B, h, w) float32
    gray = patches @ _GRAY
    # Only inside: at the border neighbours are missing, and padding would look like an edge.
    around = gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1] + gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
    return np.asarray((4 * gray[:, 1:-1, 1:-1] - around).var(axis=(1, 2)), np.float32)


def _wanted_downsample(slide: TiledSlide) -> float:
    mpp = slide.info.mpp
    return max(1.0, SHARPNESS_MPP / mpp if mpp else _DOWNSAMPLE_WITHOUT_MPP)


def _level(slide: TiledSlide) -> int:
    """The coarsest level that is fine enough."""
    levels, target = slide.info.levels, _wanted_downsample(slide)
    return max(
        # 5 % coarser is as good.
        (i for i, level in enumerate(levels) if level.downsample <= target * 1.05),
        key=lambda i: levels[i].downsample,
    )


def _plan(slide: TiledSlide) -> ReadPlan:
    info, index = slide.info, _level(slide)
    level = info.levels[index]
    # A power of two divides every tile size there is, so that tiles are shrunk one by one.
    factor = float(2 ** max(0, round(math.log2(_wanted_downsample(slide) / level.downsample))))
    # A level must stay large enough for a window of a few pixels.
    while factor > 1 and min(level.width, level.height) < 8 * factor:
        factor /= 2
    downsample = (info.width / level.width * factor, info.height / level.height * factor)
    return ReadPlan(
        level=index,
        factor=(factor, factor),
        downsample=downsample,
        canvas=(int(level.width / factor), int(level.height / factor)),
        mpp_requested=SHARPNESS_MPP,
        mpp_effective=None if info.mpp is None else info.mpp * sum(downsample) / 2,
        magnification=None,
    )
