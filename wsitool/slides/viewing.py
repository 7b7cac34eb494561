"""Parts of a slide at the resolution asked for, and the slide as a small picture."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import UsageError
from wsitool.slides.grid import ReadPlan, plan_read
from wsitool.slides.slide import Slide, SlideInfo
from wsitool.slides.spec import TileSpec

__all__ = ["facts_of", "read_at", "thumbnail_of"]

_LARGEST_SIDE = 16_384  # pixels: what comes back is held in memory


def read_at(
    slide: Slide, x0: int, y0: int, size: int | tuple[int, int], *, mpp: float | None = None
) -> NDArray[np.uint8]:
    """The part of `size` (px, or width and height) whose corner is at level-0 (x0, y0): (H, W, 3) uint8.

    At `mpp` um/px, from the level that `tile` would take, brought there by area means; without it level 0 as
    it is. What lies outside of the slide is white. Raises what `plan_read` raises and RegionReadError.
    """
    width, height = (size, size) if isinstance(size, int) else size
    if not (1 <= width <= _LARGEST_SIDE and 1 <= height <= _LARGEST_SIDE):
        raise UsageError(f"A part of a slide has sides of 1 to {_LARGEST_SIDE} px, got {width} x {height}.")
    if mpp is None:
        return slide.read_region(x0, y0, 0, width, height)
    plan = plan_read(slide.info, TileSpec(mpp=mpp))
    level = slide.info.levels[plan.level]
    # In pixels of the level: `factor` of them are one of the picture's.
    left, top = x0 * level.width / slide.info.width, y0 * level.height / slide.info.height
    if plan.factor == (1.0, 1.0):
        return slide.read_region(x0, y0, plan.level, width, height)
    return _area_mean(slide, plan, (left, top), (width, height))


def _area_mean(
    slide: Slide, plan: ReadPlan, corner: tuple[float, float], size: tuple[int, int]
) -> NDArray[np.uint8]:
    from PIL import Image

    (left, top), (width, height) = corner, size
    level, (fx, fy) = slide.info.levels[plan.level], plan.factor
    # Whole pixels around the part; the box says where within them it lies.
    x, y = math.floor(left + 1e-6), math.floor(top + 1e-6)
    across, down = math.ceil(left + width * fx - x - 1e-6), math.ceil(top + height * fy - y - 1e-6)
    pixels = slide.read_region(
        round(x * slide.info.width / level.width),
        round(y * slide.info.height / level.height),
        plan.level,
        across,
        down,
    )
    box = (left - x, top - y, min(left - x + width * fx, across), min(top - y + height * fy, down))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX, box=box))


def thumbnail_of(slide: Slide, side: int = 512) -> NDArray[np.uint8]:
    """The whole slide, its longer side `side` pixels or what the slide has, if less: (H, W, 3) uint8.

    From the coarsest level that is fine enough. UsageError for a side that cannot be, RegionReadError.
    """
    from PIL import Image

    if not 1 <= side <= _LARGEST_SIDE:
        raise UsageError(f"A thumbnail has a side of 1 to {_LARGEST_SIDE} px, got {side}.")
    levels = slide.info.levels
    enough = [index for index, level in enumerate(levels) if max(level.width, level.height) >= side]
    index = enough[-1] if enough else 0
    level = levels[index]
    scale = min(1.0, side / max(level.width, level.height))
    size = (max(1, round(level.width * scale)), max(1, round(level.height * scale)))
    # In strips: a slide without a pyramid has one level of gigabytes.
    rows = np.linspace(0, level.height, max(1, math.ceil(level.height * level.width / 2**24)) + 1)
    picture = np.empty((size[1], size[0], 3), np.uint8)
    edges = np.round(rows * size[1] / level.height).astype(int)
    for first, last in itertools.pairwise(edges):
        if first == last:
            continue
        top, bottom = first * level.height / size[1], last * level.height / size[1]
        y, end = math.floor(top), math.ceil(bottom)
        strip = slide.read_region(0, round(y * slide.info.height / level.height), index, level.width, end - y)
        box = (0.0, top - y, float(level.width), bottom - y)
        small = Image.fromarray(strip).resize((size[0], last - first), Image.Resampling.BOX, box=box)
        picture[first:last] = np.asarray(small)
    return picture


def facts_of(info: SlideInfo) -> dict[str, object]:
    """What a notebook shows of a slide, by name."""
    return {
        "level 0": f"{info.width:,} x {info.height:,} px",
        "um/px": "not stated" if info.mpp is None else f"{info.mpp:.4g} ({info.mpp_source})",
        "levels": ", ".join(f"{level.downsample:.4g}" for level in info.levels),
        "read as": f"{info.format} ({info.reader})",
    }
