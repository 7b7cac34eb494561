"""How good each candidate patch is, judged on low-resolution pixels only.

Scores are shares of the patch's area in [0, 1], except `sharpness`: the variance of the Laplacian of the
grey picture (0-255) at about 2 um/px (Pech-Pacheco et al., doi:10.1109/ICPR.2000.903548).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import RegionReadError, UsageError
from wsitool.grid import Limit, decide
from wsitool.slide import Slide
from wsitool.tissue import TissueMask, area_mean, white_balance

__all__ = ["SHARPNESS_MPP", "QualityThresholds", "ink_masks", "score_candidates"]

SHARPNESS_MPP = 2.0
_DOWNSAMPLE_WITHOUT_MPP = 4.0
# Reading a level this much smaller than level 0 costs under a tenth of cutting the patches themselves.
_CHEAP_DOWNSAMPLE = 3.5
_BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class QualityThresholds:
    """Limits on the scores; None switches one off.

    Sharpness depends on scanner and stain, so it has no default: look at the stored scores, then choose.
    """

    min_sharpness: float | None = None
    max_pen: float | None = 0.1
    max_fold: float | None = 0.5
    max_white: float | None = 0.95
    max_black: float | None = 0.3

    def __post_init__(self) -> None:
        for name in ("max_pen", "max_fold", "max_white", "max_black"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"--{name.replace('_', '-')} is a share from 0 to 1, got {value:g}.")
        if self.min_sharpness is not None and not self.min_sharpness >= 0:
            raise UsageError(f"--min-sharpness must be 0 or more, got {self.min_sharpness:g}.")

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits that are on, in the order they are tried."""
        limits = (
            Limit(score="near_black", reason="near black", at_most=self.max_black),
            Limit(score="near_white", reason="near white", at_most=self.max_white),
            Limit(score="pen", reason="pen", at_most=self.max_pen),
            Limit(score="fold", reason="fold", at_most=self.max_fold),
            Limit(score="sharpness", reason="blurred", at_least=self.min_sharpness),
        )
        return tuple(limit for limit in limits if (limit.at_least, limit.at_most) != (None, None))

    def first_reason(
        self, scores: Mapping[str, NDArray[np.float32]]
    ) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """Why each candidate is rejected first: (M,) uint8 indexing the reasons returned; 0 is "kept"."""
        return decide(scores, self.limits)


def score_candidates(
    slide: Slide,
    mask: TissueMask,
    coords: NDArray[np.int64],
    size_level0: float,
    *,
    sharpness: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """Score the patches at level-0 `coords` (M, 2): name -> (M,) float32.

    `pen`, `fold`, `near_white` and `near_black` come from the mask's thumbnail. `sharpness` needs a level of
    about 2 um/px: it is there if the slide has a small one, or if asked for; NaN without tissue or where
    pixels cannot be read.
    """
    masks = ink_masks(mask)
    scores = {name: replace(mask, mask=found).fraction(coords, size_level0) for name, found in masks.items()}
    level, step = _sharpness_level(slide)
    if sharpness or slide.info.levels[level].downsample >= _CHEAP_DOWNSAMPLE:
        tissue = mask.fraction(coords, size_level0)
        scores["sharpness"] = _sharpness(slide, level, step, coords, size_level0, tissue > 0)
    return scores


def ink_masks(mask: TissueMask) -> dict[str, NDArray[np.bool_]]:
    """Which pixels of the thumbnail are pen, fold, near white, near black: name -> (h, w) bool.

    Pens are recognised by hues that stained tissue does not have: saturated green to sky blue, and pure red;
    black ones are near black. A fold is stained twice: its optical density is twice the tissue's median
    (Beer-Lambert), and saturation exceeds brightness (Bautista and Yagi, doi:10.1117/1.JBO.17.11.116012).
    """
    picture = white_balance(mask.thumbnail)
    hue, saturation, value = _hsv(picture)
    low, high = picture.min(axis=2), picture.max(axis=2)
    green = (hue >= 70) & (hue < 170) & (saturation > 0.2) & (low < 200)
    blue = (hue >= 170) & (hue < 215) & (saturation > 0.35)
    red = ((hue < 10) | (hue >= 350)) & (saturation > 0.7) & (value > 0.4)
    density = -np.log10((picture.mean(axis=2) + 1) / 256)
    median = float(np.median(density[mask.mask])) if mask.mask.any() else 1.0
    black = (high < 60) & (high - low < 25)
    fold = mask.mask & (density > 2 * median) & (saturation > value + 0.1) & ~black
    return {"pen": green | blue | red, "fold": fold, "near_white": low > 225, "near_black": black}


def _hsv(
    rgb: NDArray[np.uint8],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Hue in degrees, saturation and value in [0, 1], each (h, w) float32."""
    red, green, blue = (rgb[..., c].astype(np.float32) for c in range(3))
    high = np.maximum(np.maximum(red, green), blue)
    chroma = high - np.minimum(np.minimum(red, green), blue)
    safe = np.maximum(chroma, 1)
    hue = np.where(
        high == red,
        (green - blue) / safe % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    saturation = np.asarray(chroma / np.maximum(high, 1), np.float32)
    return np.asarray(60 * hue, np.float32), saturation, np.asarray(high / 255, np.float32)


def _sharpness_level(slide: Slide) -> tuple[int, int]:
    """The coarsest level that is fine enough for sharpness, and how many of its pixels make one."""
    info = slide.info
    wanted = max(1.0, SHARPNESS_MPP / info.mpp if info.mpp else _DOWNSAMPLE_WITHOUT_MPP)
    fitting = [i for i, level in enumerate(info.levels) if level.downsample <= wanted * 1.05]
    index = max(fitting, key=lambda i: info.levels[i].downsample)
    return index, max(1, round(wanted / info.levels[index].downsample))


def _sharpness(
    slide: Slide,
    level: int,
    step: int,
    coords: NDArray[np.int64],
    size_level0: float,
    wanted: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """(M,) sharpness of the `wanted` patches, NaN elsewhere; the slide is read in blocks of neighbours."""
    found = np.full(len(coords), np.nan, np.float32)
    scale = slide.info.levels[level].downsample
    chosen = np.flatnonzero(wanted)
    blocks = (coords[chosen] // (_BLOCK * scale)).astype(np.int64)
    _, block_of = np.unique(blocks, axis=0, return_inverse=True)
    order = np.argsort(block_of, kind="stable")
    edges = np.flatnonzero(np.diff(block_of[order])) + 1
    for members in np.split(chosen[order], edges) if len(chosen) else ():
        corner, far = coords[members].min(axis=0), coords[members].max(axis=0) + size_level0
        width, height = np.ceil((far - corner) / scale).astype(int)
        try:
            block = slide.read_region(int(corner[0]), int(corner[1]), level, int(width), int(height))
        except RegionReadError:
            continue  # cutting the patches will say which of them cannot be read
        edges_of = _laplacian(area_mean(block, step))
        side = max(1, round(size_level0 / scale / step) - 2)  # without the border that sees the neighbours
        for index, (x, y) in zip(members, (coords[members] - corner) / (scale * step), strict=True):
            left, top = round(float(x)), round(float(y))
            found[index] = edges_of[top : top + side, left : left + side].var()
    return found


def _laplacian(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The four-neighbour Laplacian of the grey picture, without the outermost pixels: (h - 2, w - 2)."""
    grey = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return np.asarray(4 * grey[1:-1, 1:-1] - around, np.float32)
