"""Pictures whole in memory: as a level, and turned upright as their orientation says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wsitool.base.limits import check_picture
from wsitool.errors import RefusedSlideError, RegionReadError
from wsitool.slides.readers.byte_source import ByteSource
from wsitool.slides.readers.tiles import TiledSlide
from wsitool.slides.slide import Level

__all__ = ["UPRIGHT", "ArrayLevel", "turned", "upright"]

RgbArray = NDArray[np.uint8]
_TILE = 1024
UPRIGHT = 1
"""The orientation (TIFF 6.0 tag 274, also of EXIF) of a picture that is stored as it is shown."""


class ArrayLevel:
    """A picture in memory as a level; see `TileLevel`."""

    shrinks: tuple[int, ...] = ()
    passthrough = False
    tile_width = tile_height = _TILE

    def __init__(self, pixels: RgbArray) -> None:
        self._pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def decode(self, column: int, row: int, *, shrink: int = 1) -> RgbArray:
        """See `TileLevel.decode`."""
        return self._pixels[row * _TILE : (row + 1) * _TILE, column * _TILE : (column + 1) * _TILE]

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        """See `TileLevel.prefetch`."""

    def jpeg(self, column: int, row: int) -> bytes:
        """See `TileLevel.jpeg`."""
        raise RegionReadError("a picture in memory has no JPEG tiles")


def upright(pixels: RgbArray, orientation: int) -> RgbArray:
    """Pixels (h, w, 3) as they are to be shown: 2 to 4 mirror or turn them, 5 to 8 transpose first."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    # After that, which of the axes runs backwards.
    down = -1 if orientation in (3, 4, 7, 8) else 1
    along = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::down, ::along])


def turned(slide: TiledSlide, orientation: int, source: ByteSource) -> TiledSlide:
    """An open slide of another orientation as one that stands upright, read whole into memory.

    Raises RefusedSlideError for an orientation that there is not, and where `limits` allow no such picture.
    """
    info = slide.info
    if not 1 <= orientation <= 8:
        raise RefusedSlideError(f"'{source.name}' says orientation {orientation}, and there are 1 to 8.")
    check_picture(source.name, info.width, info.height, source.size)
    pixels = upright(slide.read_region(0, 0, 0, info.width, info.height), orientation)
    height, width = pixels.shape[:2]
    levels = (Level(width=width, height=height, downsample=1.0),)
    properties = {**info.properties, "orientation": str(orientation)}
    return TiledSlide(replace(info, levels=levels, properties=properties), (ArrayLevel(pixels),), source)
