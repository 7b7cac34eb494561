"""A slide level as a grid of tiles, each of which costs one decode: what the tiling engine works on."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsitool.base.pictures import card
from wsitool.errors import RegionReadError, SlideError
from wsitool.slides.readers.byte_source import ByteSource
from wsitool.slides.readers.source import fingerprint
from wsitool.slides.slide import Level, SlideInfo
from wsitool.slides.viewing import facts_of, read_at, thumbnail_of

__all__ = ["TileLevel", "TiledSlide", "stated_levels"]

RgbArray = NDArray[np.uint8]
_CACHE_BYTES = 64 * 2**20


class TileLevel(Protocol):
    """One level; tile (column, row) covers level pixels from (column * tile_width, row * tile_height) on.

    All methods may be called from several threads and raise RegionReadError.

    >>> tiles = wsitool.open_slide("slide.svs").tiles(0)
    >>> tiles.decode(0, 0).shape == (tiles.tile_height, tiles.tile_width, 3)
    True
    """

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def tile_width(self) -> int: ...

    @property
    def tile_height(self) -> int: ...

    @property
    def shrinks(self) -> tuple[int, ...]:
        """Factors other than 1 by which the decoder itself can shrink a tile at less than full cost."""
        ...

    @property
    def passthrough(self) -> bool:
        """Whether `jpeg` gives the tiles' own bytes."""
        ...

    def decode(self, column: int, row: int, *, shrink: int = 1) -> RgbArray:
        """One tile, (h, w, 3) uint8 with h and w at most the tile's size, at least what lies in the level."""
        ...

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        """Say which tiles (column, row) will be read next, so that a remote file asks for them at once."""
        ...

    def jpeg(self, column: int, row: int) -> bytes:
        """The tile as one complete JPEG stream, its pixels never decoded."""
        ...


def stated_levels(levels: Sequence[TileLevel]) -> tuple[Level, ...]:
    """Sizes of `levels`, level 0 first, and their downsamples: as OpenSlide, the mean of both axes."""
    base = levels[0]
    return tuple(
        Level(
            width=level.width,
            height=level.height,
            downsample=(base.width / level.width + base.height / level.height) / 2,
        )
        for level in levels
    )


class TiledSlide:
    """A slide whose pixels all come from tile levels; the readers differ in how they make these.

    >>> slide = wsitool.open_slide("slide.svs")
    >>> slide
    <slide slide: 600 x 600 px, 0.5 um/px>
    >>> slide.thumbnail(100).shape, slide.read(x=64, y=64, size=32, mpp=1).shape
    ((100, 100, 3), (32, 32, 3))
    """

    def __init__(self, info: SlideInfo, levels: tuple[TileLevel, ...], source: ByteSource) -> None:
        self._info = info
        self._source = source
        self._levels = levels
        self._cache: OrderedDict[tuple[int, int, int], RgbArray] = OrderedDict()
        self._cached_bytes = 0

    @property
    def info(self) -> SlideInfo:
        return self._info

    def tiles(self, level: int) -> TileLevel:
        """The tiles of one level."""
        return self._levels[level]

    def wrap_levels(self, wrap: Callable[[TileLevel], TileLevel]) -> None:
        """Put `wrap(level)` in the place of every level, before any pixel is read."""
        self._levels = tuple(wrap(level) for level in self._levels)

    def set_origin(self, path: str, fingerprint: str) -> None:
        """Say that the slide is the folder `path`, of that `fingerprint`, and not a file in it."""
        self._info = replace(self._info, path=path, fingerprint=fingerprint)

    def check_unchanged(self) -> None:
        """Raise SlideError where the file is no longer the one that was opened.

        To be called when all pixels have been read and before they are kept: they may be a mix of two files.
        """
        try:
            changed = self._source.changed()
            if changed is None:  # a server that gives no version: compare samples of the content
                changed = fingerprint(self._info.path) != self._info.fingerprint
        except OSError as error:
            raise SlideError(f"Whether '{self._info.name}' changed cannot be told: {error}.") from error
        if changed:
            raise SlideError(
                f"'{self._info.path}' changed while it was read, so its patches would be a mix of two files: "
                "run the same command again when nothing writes to it."
            )

    def read_region(self, x0: int, y0: int, level: int, width: int, height: int) -> RgbArray:
        """As `Slide.read_region` says; level pixels are read as they are, never interpolated."""
        tiles = self._levels[level]
        left = round(x0 * tiles.width / self._info.width)
        top = round(y0 * tiles.height / self._info.height)
        region = np.full((height, width, 3), 255, np.uint8)
        x_end, y_end = min(left + width, tiles.width), min(top + height, tiles.height)
        rows = range(max(top, 0) // tiles.tile_height, -(-y_end // tiles.tile_height))
        columns = range(max(left, 0) // tiles.tile_width, -(-x_end // tiles.tile_width))
        places = [(column, row) for row in rows for column in columns]
        tiles.prefetch([tile for tile in places if (level, *tile) not in self._cache])
        for column, row in places:
            tile_x, tile_y = column * tiles.tile_width, row * tiles.tile_height
            ax, bx = max(left, tile_x, 0), min(x_end, tile_x + tiles.tile_width)
            ay, by = max(top, tile_y, 0), min(y_end, tile_y + tiles.tile_height)
            part = self._cached(level, column, row)[ay - tile_y : by - tile_y, ax - tile_x : bx - tile_x]
            region[ay - top : by - top, ax - left : bx - left] = part
        return region

    def read(self, x: int, y: int, size: int | tuple[int, int], *, mpp: float | None = None) -> RgbArray:
        """The part of `size` pixels whose corner is at level-0 (x, y), at `mpp` um/px: see `read_at`."""
        return read_at(self, x, y, size, mpp=mpp)

    def thumbnail(self, side: int = 512) -> RgbArray:
        """The whole slide with a longer side of `side` pixels, (H, W, 3) uint8: see `thumbnail_of`."""
        return thumbnail_of(self, side)

    def __fspath__(self) -> str:
        return os.fspath(self._info.path)

    def __repr__(self) -> str:
        mpp = "" if self._info.mpp is None else f", {self._info.mpp:.4g} um/px"
        return f"<slide {self._info.name}: {self._info.width} x {self._info.height} px{mpp}>"

    def _repr_html_(self) -> str:
        try:
            pictures = [self.thumbnail(360)]
        except RegionReadError:  # what is known of it is shown all the same
            pictures = []
        return card(repr(self).strip("<>"), facts_of(self._info), pictures)

    def _cached(self, level: int, column: int, row: int) -> RgbArray:
        # Neighbouring regions share tiles, and a strip TIFF may be one single "tile" as large as the slide.
        key = (level, column, row)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        tile = self._levels[level].decode(column, row)
        self._cache[key] = tile
        self._cached_bytes += tile.nbytes
        while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return tile

    def close(self) -> None:
        self._cache.clear()
        self._cached_bytes = 0
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
