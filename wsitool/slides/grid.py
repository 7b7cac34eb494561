"""Which patches a slide is cut into: what the user asked for, the level it is read from, and one global grid.

The *canvas* is the slide at the resolution of the patches. Grid positions are whole canvas pixels from the
slide's origin, so that neighbouring patches meet without gap or overlap however far from the origin; level-0
coordinates are these positions scaled and rounded to whole pixels, never accumulated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.base.limits import MAX_CANDIDATES, check_limit
from wsitool.errors import MissingMppError, SlideError
from wsitool.slides.slide import NOT_SQUARE, SlideInfo
from wsitool.slides.spec import DEFAULT_MPP, TileSpec

__all__ = [
    "ListedGrid",
    "Positions",
    "ReadPlan",
    "TileGrid",
    "listed_grid",
    "plan_grid",
    "plan_read",
]

Positions = NDArray[np.int64] | NDArray[np.float64]
"""(N, 2) x, y in canvas pixels; fractions only where patches are resampled and lie on no common grid."""
# What JPEG decoders shrink by.
_SNAP_FACTORS = (2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class ReadPlan:
    """From which level a resolution is read, and by which `factor` (x, y) its pixels are brought together.

    `factor` is level pixels per canvas pixel: (1, 1) reads the level as it is, equal whole numbers average
    blocks, anything else is an exact area resample. `downsample` is level-0 pixels per canvas pixel.
    """

    level: int
    factor: tuple[float, float]
    downsample: tuple[float, float]
    canvas: tuple[int, int]
    mpp_requested: float | None
    mpp_effective: float | None
    magnification: float | None

    @property
    def whole_factor(self) -> int | None:
        """The factor where it is one whole number for both axes, else None."""
        x, y = self.factor
        return int(x) if x == y and x == int(x) else None


def plan_read(info: SlideInfo, spec: TileSpec) -> ReadPlan:
    """Choose the level for what `spec` asks of a slide.

    Raises MissingMppError where a resolution is asked for and the slide states none, SlideError where it has
    no such level or is coarser than asked.
    """
    if spec.level is not None:
        if spec.level >= len(info.levels):
            raise SlideError(
                f"'{info.name}' has {len(info.levels)} level(s), so --level must be at most "
                f"{len(info.levels) - 1}, got {spec.level}."
            )
        return _plan(info, spec.level, (1.0, 1.0), requested=None)
    downsample, requested = _wanted_downsample(info, spec)
    tolerance = spec.mpp_tolerance
    # Every level, and every level shrunk by 2, 4 or 8, that is not coarser than asked (by more than the
    # tolerance).
    near = [
        (abs(level.downsample * factor / downsample - 1), factor, i)
        for i, level in enumerate(info.levels)
        for factor in (1, *_SNAP_FACTORS)
        if level.downsample * factor <= downsample * (1 + tolerance + 1e-9)
    ]
    # A level itself is better than a shrunk finer one, even where that is nearer by a hair.
    for factors in ((1,), _SNAP_FACTORS):
        fits = [(off, -i, factor) for off, factor, i in near if factor in factors and off <= tolerance + 1e-9]
        if fits:
            _, minus_i, factor = min(fits, key=lambda fit: (fit[2], fit[0]))
            return _plan(info, -minus_i, (float(factor), float(factor)), requested=requested)
    # 1e-9: a level that is exactly the one asked for counts.
    finer = [i for i, level in enumerate(info.levels) if level.downsample <= downsample * (1 + 1e-9)]
    if not finer:
        finest = f"{info.mpp:.4g} um/px" if info.mpp else f"{info.objective_power:g}x"
        raise SlideError(
            f"'{info.name}' is {finest} at its finest, coarser than asked for; pixels are never made "
            "up: ask for that resolution, or take --level 0."
        )
    # The coarsest that is fine enough has the fewest pixels to read.
    best = max(finer, key=lambda i: info.levels[i].downsample)
    level = info.levels[best]
    # Per axis: levels are rounded to whole pixels, so their downsamples differ a little.
    factor_xy = (downsample * level.width / info.width, downsample * level.height / info.height)
    return _plan(info, best, factor_xy, requested=requested)


def _wanted_downsample(info: SlideInfo, spec: TileSpec) -> tuple[float, float | None]:
    """Level-0 pixels per patch pixel, and the mpp this means."""
    if spec.downsample is not None:
        return spec.downsample, info.mpp * spec.downsample if info.mpp else None
    if spec.magnification is not None:
        if info.objective_power:
            downsample = info.objective_power / spec.magnification
            return downsample, info.mpp * downsample if info.mpp else None
        # 10x is taken as 1 um/px.
        target, asked = 10.0 / spec.magnification, f"--magnification {spec.magnification:g}"
    else:
        target = spec.mpp if spec.mpp is not None else DEFAULT_MPP
        asked = f"--mpp {target:g}"
    if info.mpp is None and NOT_SQUARE in info.properties:
        raise MissingMppError(
            f"The pixels of '{info.name}' are not square ({info.properties[NOT_SQUARE]}), so {asked} cannot "
            "be met: make them square, or say with --default-mpp what they shall count as."
        )
    if info.mpp is None:
        raise MissingMppError(
            f"'{info.name}' states no resolution (mpp) and no objective power, so {asked} cannot be met: "
            "give the slide's own um per pixel with --default-mpp, or take its pixels as they are with "
            "--level 0."
        )
    return target / info.mpp, target


def _plan(info: SlideInfo, index: int, factor: tuple[float, float], *, requested: float | None) -> ReadPlan:
    level = info.levels[index]
    # From the sizes, not from the stated downsample: the last pixel lies where the level ends.
    downsample = (info.width / level.width * factor[0], info.height / level.height * factor[1])
    mean = (downsample[0] + downsample[1]) / 2
    return ReadPlan(
        level=index,
        factor=factor,
        downsample=downsample,
        # 1e-6: a quotient that should be whole must not lose its last pixel.
        canvas=(math.floor(level.width / factor[0] + 1e-6), math.floor(level.height / factor[1] + 1e-6)),
        mpp_requested=requested,
        mpp_effective=info.mpp * mean if info.mpp else None,
        magnification=info.objective_power / mean if info.objective_power else None,
    )


@dataclass(frozen=True, kw_only=True)
class TileGrid(Sequence[tuple[int, int]]):
    """All grid positions of a slide, in (y, x) order, as level-0 corners; only patches wholly inside it.

    A rest at the right and lower edge narrower than a patch is not cut: it could only be filled with pixels
    that are not there.
    """

    plan: ReadPlan
    patch_size: int
    stride: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        width, height = self.plan.canvas
        return tuple((side - self.patch_size) // self.stride + 1 for side in (height, width))  # type: ignore[return-value]

    @property
    def patch_size_level0(self) -> float:
        """The patch's side in level-0 pixels, mean of both axes."""
        return self.patch_size * sum(self.plan.downsample) / 2

    @property
    def stride_level0(self) -> float:
        """The stride in level-0 pixels, mean of both axes."""
        return self.stride * sum(self.plan.downsample) / 2

    def fills(self, side: int) -> bool:
        """Whether patches are whole squares of that side (px) of the level."""
        return side == self.patch_size and self.stride % side == 0

    @cached_property
    def positions(self) -> Positions:
        """(M, 2) x, y in canvas pixels."""
        rows, columns = self.shape
        return self.positions_of(np.arange(rows * columns, dtype=np.int64))

    def positions_of(self, indices: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Of some of them (n,), without the memory for all: (n, 2) x, y in canvas pixels."""
        # Row by row, hence in (y, x) order without sorting.
        y, x = np.divmod(indices.astype(np.int64), self.shape[1])
        return np.stack([x, y], axis=1) * self.stride

    @cached_property
    def coords(self) -> NDArray[np.int64]:
        """(M, 2) x, y of the corners in level-0 pixels."""
        return self.coords_of(self.positions)

    def coords_of(self, positions: Positions) -> NDArray[np.int64]:
        """(n, 2) x, y in level-0 pixels of positions (n, 2)."""
        # Scaled at once from whole positions: errors do not add up over the slide.
        corners: NDArray[np.int64] = np.rint(positions * np.array(self.plan.downsample)).astype(np.int64)
        return corners

    def __len__(self) -> int:
        rows, columns = self.shape
        return rows * columns

    def __getitem__(self, index: Any) -> Any:
        # `range` gives negatives and IndexError as a list does.
        x, y = self.coords[range(len(self))[index]]
        return int(x), int(y)


@dataclass(frozen=True, kw_only=True, eq=False)
class ListedGrid(TileGrid):
    """Positions that were chosen elsewhere: level-0 corners `listed` (N, 2), in (y, x) order.

    Where a level is read as it is, a patch begins at its pixel nearest to the corner; where pixels are
    resampled, exactly there. `stride` is the usual step within a row. `outside` counts positions that were
    left out, as their patches reach over the slide's edge.
    """

    listed: NDArray[np.int64]
    outside: int = 0

    def fills(self, side: int) -> bool:
        """As of a grid."""
        return side == self.patch_size and not (self.positions % side).any()

    @cached_property
    def positions(self) -> Positions:
        """(M, 2) x, y in canvas pixels."""
        return _canvas_positions(self.plan, self.listed)

    @cached_property
    def coords(self) -> NDArray[np.int64]:
        """(M, 2) x, y of the corners in level-0 pixels, as they were given."""
        return self.listed

    def __len__(self) -> int:
        return len(self.listed)


def _canvas_positions(plan: ReadPlan, corners: NDArray[np.int64]) -> Positions:
    exact: NDArray[np.float64] = corners / np.array(plan.downsample)
    whole = np.rint(exact).astype(np.int64)
    # 1e-6 as of the canvas.
    return whole if plan.factor == (1.0, 1.0) or (np.abs(exact - whole) < 1e-6).all() else exact


def listed_grid(info: SlideInfo, spec: TileSpec, corners: NDArray[np.int64]) -> ListedGrid:
    """The patches of a slide at level-0 `corners` (N, 2), in (y, x) order; SlideError if none lies inside."""
    plan = plan_read(info, spec)
    positions = _canvas_positions(plan, corners)
    inside = ((positions >= 0) & (positions + spec.patch_size <= np.array(plan.canvas) + 1e-6)).all(axis=1)
    kept = corners[inside]
    if not len(kept):
        raise SlideError(
            f"None of the {len(corners)} positions lies inside '{info.name}', which is {info.width}x"
            f"{info.height} px, with patches of {spec.patch_size} px: they are of another slide or level."
        )
    check_limit(f"Positions of '{info.name}'", len(kept), MAX_CANDIDATES)
    return ListedGrid(
        plan=plan,
        patch_size=spec.patch_size,
        stride=_usual_step(plan, spec, kept),
        listed=kept,
        outside=len(corners) - len(kept),
    )


def _usual_step(plan: ReadPlan, spec: TileSpec, corners: NDArray[np.int64]) -> int:
    """The most frequent step within a row in patch pixels, and so small that all patches have room."""
    steps = np.diff(corners, axis=0)
    steps = steps[(steps[:, 1] == 0) & (steps[:, 0] > 0), 0]
    step = float(spec.patch_size)
    if len(steps):
        values, counts = np.unique(steps, return_counts=True)
        step = round(float(values[counts.argmax()]) / plan.downsample[0])
    width, height = plan.canvas
    return max(1, int(min(step, math.sqrt(width * height / len(corners)))))


def plan_grid(info: SlideInfo, spec: TileSpec) -> TileGrid:
    """The grid of a slide; SlideError if not even one patch fits into it.

    RefusedSlideError beyond 20 million positions. Positions are computed when they are first asked for.
    """
    plan = plan_read(info, spec)
    # Asked of the canvas at this resolution, before anything is allocated.
    if spec.patch_size > min(plan.canvas):
        width, height = plan.canvas
        raise SlideError(
            f"A patch of {spec.patch_size} px does not fit into '{info.name}', which is {width}x{height} px "
            "at this resolution: ask for a smaller --patch-size or a finer resolution."
        )
    grid = TileGrid(plan=plan, patch_size=spec.patch_size, stride=spec.step)
    # Checked before `positions` exist, which take 16 bytes each.
    check_limit(f"Grid positions of '{info.name}' at stride {spec.step}", len(grid), MAX_CANDIDATES)
    return grid
