"""A slide level seen through a read plan: tiles in the pixels patches are cut from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import RegionReadError
from wsitool.slides.grid import Positions, ReadPlan
from wsitool.slides.readers.tiles import TileLevel
from wsitool.slides.spec import Resample
from wsitool.tiling.resample import area_resample, block_mean, psnr

__all__ = ["LevelView", "choose_shrink"]

RgbArray = NDArray[np.uint8]
# 45 dB is a root mean square error of 1.4 grey levels.
_FAST_MIN_DB = 45.0
# Spread over the slide: each costs two decodes.
_PROBES = 4


class LevelView:
    """Tiles of one level as the cutter needs them: as they are, or averaged by a whole factor.

    Where the factor is not whole (or does not divide the tiles) patches are cut from level pixels and
    `finish` brings each to its size, and so where positions are not all `whole` canvas pixels. With `fast`
    the decoder shrinks, otherwise whole blocks are averaged.
    """

    def __init__(
        self, tiles: TileLevel, plan: ReadPlan, patch_size: int, *, fast: bool, whole: bool = True
    ) -> None:
        # Patches that begin inside a block cannot be cut from blocks.
        factor = plan.whole_factor if whole else None
        # Only where tiles divide: then each tile is shrunk alone, and no block spans two.
        divides = factor is not None and not (tiles.tile_width % factor or tiles.tile_height % factor)
        self._tiles, self._patch_size = tiles, patch_size
        self._block = factor if factor is not None and divides else 1
        self.fast = fast and self._block in tiles.shrinks
        # What is left to do for each patch.
        self._rest = plan.factor if self._block == 1 else (1.0, 1.0)
        self.tile_width, self.tile_height = (
            tiles.tile_width // self._block,
            tiles.tile_height // self._block,
        )
        # Whole blocks: a rest at the edge of the level has no pixel here.
        self._size = (tiles.width // self._block, tiles.height // self._block)

    @property
    def resamples(self) -> bool:
        """Whether patches need `finish`."""
        return self._rest != (1.0, 1.0)

    @property
    def cut_size(self) -> tuple[int, int]:
        """(width, height) of the rectangle a patch is cut from, in tile pixels."""
        if not self.resamples:
            return self._patch_size, self._patch_size
        # One pixel more, since a rectangle may begin anywhere inside its first pixel.
        width, height = (int(np.ceil(self._patch_size * factor)) + 1 for factor in self._rest)
        return min(width, self._size[0]), min(height, self._size[1])

    def corners(self, positions: Positions) -> NDArray[np.int64]:
        """Grid positions (N, 2) to the corners of their rectangles in tile pixels, all inside the level."""
        if not self.resamples:
            return np.asarray(positions, np.int64)
        # 1e-9: a product of floats that should be whole must not fall to the pixel before.
        corners = np.floor(positions * np.array(self._rest) + 1e-9).astype(np.int64)
        # At the right and lower edge the rectangle moves inward instead of reaching out.
        return np.asarray(np.minimum(corners, np.array(self._size) - np.array(self.cut_size)))

    def fetch(self, column: int, row: int) -> RgbArray:
        """Decode one tile, once; raises RegionReadError.

        (h, w, 3) uint8, averaged where the view shrinks; a tile at the edge may be smaller. Safe from several
        threads where the level's reader is.
        """
        if self.fast:
            return self._tiles.decode(column, row, shrink=self._block)
        tile = self._tiles.decode(column, row)
        return tile if self._block == 1 else block_mean(tile, self._block)

    def prefetch(self, columns: range, row: int) -> None:
        """Say which tiles will be fetched next."""
        self._tiles.prefetch([(column, row) for column in columns])

    def finish(self, cut: RgbArray, positions: Positions, corners: NDArray[np.int64]) -> RgbArray:
        """Resample rectangles (B, h, w, 3) at `corners` to the patches (B, P, P, 3) at `positions`."""
        # Where in its rectangle each patch begins, in fractions of a pixel.
        starts = positions * np.array(self._rest) - corners
        return np.stack(
            [
                area_resample(source, self._patch_size, (float(x), float(y)), self._rest)
                for source, (x, y) in zip(cut, starts, strict=True)
            ]
        )


def choose_shrink(
    tiles: TileLevel, plan: ReadPlan, mode: Resample, needed: NDArray[np.int64]
) -> tuple[bool, float | None]:
    """Whether the decoder's own shrinking is used, and how far it is from the exact area mean in dB.

    "auto" compares both on a few of the `needed` tiles (N, 2) column, row, and uses it only if the worst is
    at least 45 dB away in peak signal-to-noise ratio.
    """
    factor = plan.whole_factor
    if mode == "exact" or factor is None or factor not in tiles.shrinks or not len(needed):
        return False, None
    if mode == "fast":
        return True, None
    worst = float("inf")
    # From first to last, evenly: stain and focus vary over a slide.
    for column, row in needed[np.linspace(0, len(needed) - 1, _PROBES).astype(int)].tolist():
        try:
            exact = block_mean(tiles.decode(column, row), factor)
            fast = tiles.decode(column, row, shrink=factor)
        except RegionReadError:
            continue
        # The decoder rounds sides up, the mean drops what is short of a block.
        worst = min(worst, psnr(exact, fast[: exact.shape[0], : exact.shape[1]]))
    return worst >= _FAST_MIN_DB, worst if worst < float("inf") else None
