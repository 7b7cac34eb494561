"""Bringing level pixels to the resolution of the patches: whole-block means and exact area means."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["area_resample", "block_mean", "psnr"]

RgbArray = NDArray[np.uint8]


def block_mean(tile: RgbArray, factor: int) -> RgbArray:
    """Mean of `factor` x `factor` blocks of (h, w, 3), rounded; rows and columns short of one are dropped."""
    height, width = (side // factor * factor for side in tile.shape[:2])
    # Pillow's reduce averages blocks; it wants rows without gaps.
    covered = np.ascontiguousarray(tile[:height, :width])
    return np.asarray(Image.fromarray(covered).reduce(factor))


def area_resample(
    source: RgbArray, size: int, start: tuple[float, float], factor: tuple[float, float]
) -> RgbArray:
    """The exact area mean: output pixel i covers source [start + i * factor, start + (i + 1) * factor).

    `source` (h, w, 3) uint8; `start` and `factor` are (x, y) in source pixels, factor > 1. Returns
    (size, size, 3). Source pixels cut by a border count by their covered share; what lies beyond the source's
    edge (rounding, less than a thousandth of a pixel) is left out of the mean.
    """
    rows, row_weights = _taps(source.shape[0], size, start[1], factor[1])
    columns, column_weights = _taps(source.shape[1], size, start[0], factor[0])
    # Down first, then across: two passes of `factor` + 1 taps each, not their square.
    tall = np.zeros((size, source.shape[1], 3), np.float32)
    for tap in range(rows.shape[1]):
        tall += row_weights[:, tap, None, None] * source[rows[:, tap]]
    out = np.zeros((size, size, 3), np.float32)
    for tap in range(columns.shape[1]):
        out += column_weights[None, :, tap, None] * tall[:, columns[:, tap]]
    return np.rint(out).clip(0, 255).astype(np.uint8)


def _taps(
    length: int, size: int, start: float, factor: float
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Source indices and weights of each output pixel along one axis: (size, taps) both."""
    # (size,) borders of each output pixel in source pixels.
    lower = start + np.arange(size) * factor
    upper = np.minimum(lower + factor, length)
    # 1e-9 as in `LevelView.corners`.
    first = np.floor(lower + 1e-9).astype(np.intp)
    # One tap more than the factor, as a pixel may be cut at both ends.
    index = first[:, None] + np.arange(int(np.ceil(factor)) + 1)
    # Covered share of each source pixel; below 0 where it is beyond.
    covered = np.minimum(index + 1, upper[:, None]) - np.maximum(index, lower[:, None])
    weights = covered.clip(0)
    weights /= weights.sum(axis=1, keepdims=True)
    # Beyond the edge the weight is 0, so any index will do.
    return np.minimum(index, length - 1), weights.astype(np.float32)


def psnr(a: RgbArray, b: RgbArray) -> float:
    """Peak signal-to-noise ratio of two pictures in dB; infinite where they are equal."""
    error = float(np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))
