"""One way from a slide to its patches: read plan, tissue mask, candidates, and blocks of pixels.

`tile`, `predict`, `audit` and whatever needs the patches of a slide take them from here, so that they agree
on which patches those are and on every pixel of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import NoTissueError
from wsitool.slides.detectors import stained_within
from wsitool.slides.grid import Positions, TileGrid, listed_grid, plan_grid
from wsitool.slides.masks import find_tissue
from wsitool.slides.readers import TiledSlide
from wsitool.slides.spec import TileSpec
from wsitool.slides.tissue import TissueMask
from wsitool.store.schema import Candidates, Prepared
from wsitool.tiling.candidates import count_reasons, find_candidates, nothing_left
from wsitool.tiling.cutter import Block, CutCounts, cut, tiles_touched
from wsitool.tiling.executor import Executor
from wsitool.tiling.level_view import LevelView, choose_shrink
from wsitool.tiling.passthrough import check_passthrough, pass_tiles

__all__ = ["PatchSource", "cut_at", "patch_source"]

T = TypeVar("T")
# Shares above which it is more likely that glass or stain has been mistaken.
_MOST_TISSUE, _MOST_COLORLESS, _MOST_PENS = 0.95, 0.02, 0.5
# Of fat 45 to 57 % is, of the other stains and slides tried 83 % or more.
_LEAST_STAINED = 0.7
_PROBED_PATCHES = 16  # patches whose tiles may decide whether the decoder shrinks


@dataclass(frozen=True, kw_only=True)
class PatchSource:
    """The patches of one open slide: all `candidates` (M,) of its grid, of which `kept` are cut.

    `counts` grows with the tiles that are decoded. Indices are those of the candidates.
    """

    slide: TiledSlide
    spec: TileSpec
    grid: TileGrid
    mask: TissueMask
    candidates: Candidates
    counts: CutCounts = field(default_factory=CutCounts)

    # A cached property works in a frozen dataclass: it writes to `__dict__`, past the check.
    @cached_property
    def kept(self) -> NDArray[np.int64]:
        """Indices (N,) of the candidates no limit rejects, sorted by (y, x)."""
        return np.flatnonzero(self.candidates.reason == 0)

    def only(self, rows: NDArray[np.int64]) -> PatchSource:
        """The same with nothing kept but some of the kept patches, by their place in `kept`."""
        reason = np.ones_like(self.candidates.reason)
        reason[self.kept[rows]] = 0
        return replace(self, candidates=replace(self.candidates, reason=reason), counts=CutCounts())

    def nothing_left(self) -> NoTissueError:
        """The error that says which limit left no patch."""
        return nothing_left(self.slide.info.name, self.candidates, self.spec.all_limits)

    @property
    def doubts(self) -> list[str]:
        """What is odd about the tissue, each with the option that changes it: sentences about the slide."""
        reasons = count_reasons(self.candidates)
        with_tissue = sum(reasons.values()) - reasons.get("low tissue", 0)
        doubts = []
        if self.spec.min_tissue > 0 and self.mask.mask.mean() > _MOST_TISSUE:
            doubts.append(
                f"{self.mask.mask.mean():.0%} of it is taken for tissue: if its preview shows glass, try "
                "--tissue otsu"
            )
        if self.mask.colorless > max(_MOST_COLORLESS, 2 * self.mask.mask.mean()):
            doubts.append(
                f"{self.mask.colorless:.0%} of it is dark without color and counts as glass: for a silver "
                "stain or a gray scan pass --tissue density"
            )
        by_file = ":" in self.spec.tissue
        if not by_file and (stained := stained_within(self.mask.mask)) < _LEAST_STAINED:
            doubts.append(
                f"only {stained:.0%} of what lies within the outlines of its tissue is stained: if the rest "
                "is fat and not glass, pass --tissue filled"
            )
        if (pens := reasons.get("pen", 0)) > _MOST_PENS * with_tissue:
            doubts.append(
                f"{pens:,} of {with_tissue:,} patches of tissue are left out as pen ink: if that is its "
                "stain, pass --max-pen 1"
            )
        return doubts

    @property
    def resampling(self) -> str:
        """How pixels are brought to their resolution, in words."""
        return "none" if self.spec.codec == "native" else self._view[1]

    def blocks(self, convert: Callable[[NDArray[np.uint8]], T], *, pool: Executor) -> Iterator[Block[T]]:
        """The kept patches in order, a few rows of memory at a time; block indices count within `kept`.

        `convert` makes a block's payload of its pixels (B, P, P, 3) uint8 in the pool; the cutter uses that
        memory again, so it must not keep it. Every native tile is decoded once.
        """
        positions = self.grid.positions[self.kept]
        return cut_at(self._view[0], positions, convert, pool=pool, counts=self.counts)

    def native_blocks(self, *, pool: Executor) -> Iterator[Block[Prepared]]:
        """The kept patches as the slide's own compressed tiles; only for codec "native".

        Payloads are JPEG streams, not pixels. Not one tile is decoded.
        """
        # Whole tiles: `check_passthrough` has seen to sizes and strides.
        places = np.asarray(self.grid.positions[self.kept] // self.spec.patch_size, np.int64)
        return pass_tiles(self.slide.tiles(self.grid.plan.level), places, pool=pool)

    @property
    def shrinks(self) -> bool:
        """Whether the decoder's own shrinking is used; may decode a few tiles to tell."""
        return self._view[0].fast

    @cached_property
    def _view(self) -> tuple[LevelView, str]:
        """The level as patches are cut from it, and how its pixels come to be."""
        plan, size = self.grid.plan, self.spec.patch_size
        tiles = self.slide.tiles(plan.level)
        # First as if the decoder shrinks: whether it can is known then.
        whole = self.grid.positions.dtype == np.int64
        view = LevelView(tiles, plan, size, fast=True, whole=whole)
        decibels: float | None = None
        if view.fast:
            positions = self.grid.positions[self.kept]
            # Every n-th, so that probes lie all over the tissue.
            # A view that shrinks has whole positions.
            some = view.corners(positions[:: max(1, len(positions) // _PROBED_PATCHES)])
            needed = tiles_touched(some, (size, size), (view.tile_width, view.tile_height))
            fast, decibels = choose_shrink(tiles, plan, self.spec.resample, needed)
            view = LevelView(tiles, plan, size, fast=fast)
        if view.resamples:
            return view, "area mean"
        factor = plan.whole_factor
        if factor == 1:
            return view, "none"
        if not view.fast:
            return view, f"{factor}x{factor} mean"
        proof = "" if decibels is None else f" ({decibels:.1f} dB from the exact mean)"
        return view, f"decoder's 1/{factor}{proof}"


def cut_at(
    view: LevelView,
    positions: Positions,
    convert: Callable[[NDArray[np.uint8]], T],
    *,
    pool: Executor,
    counts: CutCounts,
) -> Iterator[Block[T]]:
    """Patches at `positions` (N, 2), sorted by (y, x), as `PatchSource.blocks` gives them."""
    corners = view.corners(positions)

    def finish(pixels: NDArray[np.uint8], indices: NDArray[np.int64]) -> T:
        if view.resamples:
            pixels = view.finish(pixels, positions[indices], corners[indices])
        return convert(pixels)

    return cut(view, corners, view.cut_size, finish, pool=pool, counts=counts)


def patch_source(
    slide: TiledSlide, spec: TileSpec, *, threads: int = 1, corners: NDArray[np.int64] | None = None
) -> PatchSource:
    """Plan the grid of an open slide, find its tissue, and decide on every grid position.

    `corners` (N, 2), level-0 x, y in (y, x) order, are positions to take instead of a grid.
    Raises SlideError (or a kind of it) where there is nothing to read at that resolution; a source of which
    nothing is kept is no error yet.
    """
    grid = plan_grid(slide.info, spec) if corners is None else listed_grid(slide.info, spec, corners)
    if spec.codec == "native":
        check_passthrough(slide.info.name, slide.tiles(grid.plan.level), grid)
    mask = find_tissue(slide, spec.tissue)
    candidates = find_candidates(slide, grid, mask, spec, threads=threads)
    return PatchSource(slide=slide, spec=spec, grid=grid, mask=mask, candidates=candidates)
