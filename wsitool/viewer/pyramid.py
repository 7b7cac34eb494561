"""The levels of a slide as JPEG tiles for a page: the scanner's own bytes where they are JPEG.

Levels that a slide lacks are made: halves of the next finer one, decoded small where the codec can.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsitool.slides.readers import TiledSlide, TileLevel
from wsitool.store import jpeg

__all__ = ["Pyramid", "ViewLevel"]

RgbArray = NDArray[np.uint8]
_SIDE = 512  # of tiles that are not the slide's own
_SMALLEST, _LARGEST = 128, 1024  # sides of a slide's own tiles that a page can fetch one by one
_WHOLE = 1024  # pixels: levels are added until one has no longer side
_GAP = 2.9  # between levels; more, and the page would fetch over eight times the pixels it shows
_QUALITY = 85
_CACHED_TILES = 128  # of 0.75 MB: halves are made of halves


@dataclass(frozen=True, kw_only=True)
class ViewLevel:
    """One level of the page's pyramid, sizes in its own pixels; level `native` of the slide over `shrink`."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    downsample: float
    native: int
    shrink: int


class Pyramid:
    """Tiles of an open slide, which it closes; safe from any number of threads."""

    def __init__(self, slide: TiledSlide) -> None:
        self.slide = slide
        self.levels = tuple(_levels(slide))
        self._made: OrderedDict[tuple[int, int, int], RgbArray] = OrderedDict()
        self._lock = threading.Lock()

    def tile(self, level: int, column: int, row: int) -> bytes:
        """A tile as JPEG; IndexError where there is none, RegionReadError where it cannot be decoded.

        A slide's own tile may reach beyond the level, as its file has it.
        """
        view = self._checked(level, column, row)
        tiles = self.slide.tiles(view.native)
        own = view.shrink == 1 and (view.tile_width, view.tile_height) == (
            tiles.tile_width,
            tiles.tile_height,
        )
        if own and tiles.passthrough:
            return tiles.jpeg(column, row)
        return jpeg.encode(tiles.decode(column, row) if own else self._cut(level, column, row), _QUALITY)

    def close(self) -> None:
        self._made.clear()
        self.slide.close()

    def _checked(self, level: int, column: int, row: int) -> ViewLevel:
        if not 0 <= level < len(self.levels):
            raise IndexError(f"There is no level {level}.")
        view = self.levels[level]
        if not (0 <= column * view.tile_width < view.width and 0 <= row * view.tile_height < view.height):
            raise IndexError(f"There is no tile {column}, {row} at level {level}.")
        return view

    def _cut(self, level: int, column: int, row: int) -> RgbArray:
        """A tile that is not the slide's own, (h, w, 3), without what lies outside the level."""
        key = (level, column, row)
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        view = self.levels[level]
        tiles = self.slide.tiles(view.native)
        left, top = column * view.tile_width, row * view.tile_height
        right, bottom = min(left + view.tile_width, view.width), min(top + view.tile_height, view.height)
        if view.shrink == 1 or _shrinks(tiles, view.shrink):
            tile = _composed(tiles, view.shrink, left, top, right, bottom)
        else:
            tile = self._halved(level - 1, left, top, right, bottom)
        with self._lock:
            self._made[key] = tile
            while len(self._made) > _CACHED_TILES:
                self._made.popitem(last=False)
        return tile

    def _halved(self, finer: int, left: int, top: int, right: int, bottom: int) -> RgbArray:
        view = self.levels[finer]
        if view.shrink == 1:
            fine = _composed(self.slide.tiles(view.native), 1, 2 * left, 2 * top, 2 * right, 2 * bottom)
        else:
            fine = np.empty((2 * (bottom - top), 2 * (right - left), 3), np.uint8)
            for y in range(0, fine.shape[0], _SIDE):
                for x in range(0, fine.shape[1], _SIDE):
                    part = self._cut(finer, (2 * left + x) // _SIDE, (2 * top + y) // _SIDE)
                    height, width = min(_SIDE, fine.shape[0] - y), min(_SIDE, fine.shape[1] - x)
                    fine[y : y + height, x : x + width] = part[:height, :width]
        blocks = fine.reshape(bottom - top, 2, right - left, 2, 3)
        mean: RgbArray = ((blocks.sum(axis=(1, 3), dtype=np.uint16) + 2) // 4).astype(np.uint8)
        return mean


def _levels(slide: TiledSlide) -> list[ViewLevel]:
    """The slide's levels and those between and above them, the finest first."""
    views: list[ViewLevel] = []
    infos = slide.info.levels
    for number, info in enumerate(infos):
        tiles = slide.tiles(number)
        fits = all(_SMALLEST <= side <= _LARGEST for side in (tiles.tile_width, tiles.tile_height))
        size = (tiles.tile_width, tiles.tile_height) if fits else (_SIDE, _SIDE)
        coarser = infos[number + 1].downsample if number + 1 < len(infos) else float("inf")
        shrink = 1
        width, height = info.width, info.height
        while True:
            views.append(
                ViewLevel(
                    width=width,
                    height=height,
                    tile_width=size[0],
                    tile_height=size[1],
                    downsample=info.downsample * shrink,
                    native=number,
                    shrink=shrink,
                )
            )
            shrink, size = shrink * 2, (_SIDE, _SIDE)
            width, height = width // 2, height // 2
            last = coarser == float("inf") and max(width, height) * 2 <= _WHOLE
            # The next native level comes soon enough.
            near = coarser / (info.downsample * shrink / 2) < _GAP
            if last or near or not width or not height:
                break
    return views


def _shrinks(tiles: TileLevel, factor: int) -> bool:
    return factor in tiles.shrinks and not (tiles.tile_width % factor or tiles.tile_height % factor)


def _composed(tiles: TileLevel, factor: int, left: int, top: int, right: int, bottom: int) -> RgbArray:
    """The rectangle of a level shrunk by `factor`, put together from its tiles."""
    region = np.full((bottom - top, right - left, 3), 255, np.uint8)
    width, height = tiles.tile_width // factor, tiles.tile_height // factor
    for row in range(top // height, -(-bottom // height)):
        for column in range(left // width, -(-right // width)):
            x, y = column * width, row * height
            part = tiles.decode(column, row, shrink=factor)[:height, :width]
            ax, ay = max(left, x), max(top, y)
            bx, by = min(right, x + part.shape[1]), min(bottom, y + part.shape[0])
            if bx > ax and by > ay:
                region[ay - top : by - top, ax - left : bx - left] = part[ay - y : by - y, ax - x : bx - x]
    return region
