"""Reader of Deep Zoom images: a `.dzi` file beside the folder of its tiles, as libvips writes them.

https://learn.microsoft.com/previous-versions/windows/silverlight/dotnet-windows-silverlight/cc645077(v=vs.95)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import imagecodecs
import numpy as np
import simplejpeg
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from numpy.typing import NDArray

from wsitool.base.limits import MAX_LEVEL_PIXELS, MAX_TILE_PIXELS, check_limit
from wsitool.base.urls import is_url
from wsitool.errors import RefusedSlideError, RegionReadError, UnsupportedSlideError
from wsitool.slides.readers.byte_source import ByteSource, stem
from wsitool.slides.readers.codecs import DECODE_ERRORS, to_rgb
from wsitool.slides.readers.folders import pixel_folder
from wsitool.slides.readers.resolution import number, resolve_mpp, square_mpp
from wsitool.slides.readers.source import fingerprint
from wsitool.slides.readers.tiles import TiledSlide, stated_levels
from wsitool.slides.slide import NOT_SQUARE, SlideInfo

__all__ = ["open_deepzoom"]

_MOST_BYTES = 2**16  # of the .dzi file itself
_LARGEST_OVERLAP = 1024
_JPEGS, _PNGS = ("jpg", "jpeg"), ("png",)


class _DeepZoomLevel:
    """One level; a tile is a file that shows `overlap` pixels of its neighbors; see `TileLevel`."""

    shrinks: tuple[int, ...] = ()
    passthrough = False

    def __init__(self, folder: Path, kind: str, size: tuple[int, int], tile: int, overlap: int) -> None:
        self._folder, self._kind, self._overlap = folder, kind, overlap
        self.width, self.height = size
        self.tile_width = self.tile_height = tile

    def decode(self, column: int, row: int, *, shrink: int = 1) -> NDArray[np.uint8]:
        """See `TileLevel.decode`."""
        left, width = self._span(column, self.width)
        top, height = self._span(row, self.height)
        try:
            data = (self._folder / f"{column}_{row}.{self._kind}").read_bytes()
            pixels = self._decoded(data, width, height)
        except (OSError, *DECODE_ERRORS) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise RegionReadError(
                f"tile column {column}, row {row} of level {self._folder.name} cannot be read: {reason}"
            ) from error
        return pixels[top : top + self.tile_height, left : left + self.tile_width]

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        """See `TileLevel.prefetch`."""

    def jpeg(self, column: int, row: int) -> bytes:
        """See `TileLevel.jpeg`."""
        raise RegionReadError("tiles of Deep Zoom overlap")

    def _span(self, place: int, size: int) -> tuple[int, int]:
        """Along one axis, where in a tile's file its own pixels begin, and how many the file has."""
        tile = self.tile_width
        start = max(0, place * tile - self._overlap)
        return place * tile - start, min(size, (place + 1) * tile + self._overlap) - start

    def _decoded(self, data: bytes, width: int, height: int) -> NDArray[np.uint8]:
        """The pixels of a tile's file; ValueError unless it has the size that its place makes."""
        if self._kind in _JPEGS:
            claimed = simplejpeg.decode_jpeg_header(data)[1::-1]
        else:
            claimed = (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
        if claimed != (width, height):
            raise ValueError(f"it is {claimed[0]}x{claimed[1]} pixels where {width}x{height} are expected")
        decode: Any = simplejpeg.decode_jpeg if self._kind in _JPEGS else imagecodecs.png_decode
        return to_rgb(np.asarray(decode(data)))


def open_deepzoom(source: ByteSource, *, default_mpp: float | None = None) -> TiledSlide:
    """Open a Deep Zoom image; its resolution is what libvips noted of the slide that it was made from.

    Levels are those down to one of a single tile. Raises UnsupportedSlideError for another XML,
    RefusedSlideError where the folder of tiles is not there.
    """
    if is_url(source.path):
        raise UnsupportedSlideError("Deep Zoom images are read from local folders only.")
    width, height, tile, overlap, kind = _description(source)
    folder = pixel_folder(Path(source.path))
    if folder is None or not folder.is_dir():
        raise RefusedSlideError(
            f"The tiles of '{source.name}' are not beside it: copy the folder '{folder}', too."
        )
    levels, sizes = [], [(width, height)]
    while max(sizes[-1]) > 1:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    for index, size in enumerate(sizes):
        levels.append(_DeepZoomLevel(folder / f"{len(sizes) - 1 - index}", kind, size, tile, overlap))
        if max(size) <= tile:
            break
    if missing := [level for level in levels if not level._folder.is_dir()]:
        raise RefusedSlideError(f"'{source.name}' lacks its level '{missing[0]._folder}': copy it whole.")
    stated, sides = square_mpp(*_mpp(folder))
    mpp, mpp_source = resolve_mpp(stated, None, default_mpp)
    info = SlideInfo(
        path=source.path,
        name=stem(source.name),
        reader="deepzoom",
        format=f"Deep Zoom, {kind} tiles {tile}x{tile}",
        levels=stated_levels(levels),
        mpp=mpp,
        mpp_source=mpp_source,
        objective_power=None,
        fingerprint=fingerprint(source),
        properties={NOT_SQUARE: sides} if sides else {},
    )
    return TiledSlide(info, tuple(levels), source)


def _description(source: ByteSource) -> tuple[int, int, int, int, str]:
    """Width, height, side of a tile, overlap and kind of file, as the .dzi says."""
    try:
        root = fromstring(source.read(0, min(source.size, _MOST_BYTES)))
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise UnsupportedSlideError(
            f"'{source.name}' is no Deep Zoom image: it is no XML ({error})."
        ) from error
    size = root.find("{*}Size")
    kind = root.get("Format", "").lower()
    if not root.tag.endswith("}Image") or size is None:
        raise UnsupportedSlideError(f"'{source.name}' is no Deep Zoom image: it has no Image with a Size.")
    if kind not in (*_JPEGS, *_PNGS):
        raise RefusedSlideError(f"'{source.name}' has tiles of kind '{kind}', and jpeg and png are read.")
    try:
        width, height = int(size.get("Width", "")), int(size.get("Height", ""))
        tile, overlap = int(root.get("TileSize", "")), int(root.get("Overlap", "0"))
    except ValueError as error:
        raise RefusedSlideError(f"'{source.name}' states no whole sizes ({error}).") from error
    if min(width, height, tile) < 1 or not 0 <= overlap <= min(tile, _LARGEST_OVERLAP):
        raise RefusedSlideError(
            f"'{source.name}' states the size {width} x {height}, tiles of {tile} and overlap {overlap}."
        )
    check_limit(f"Pixels of '{source.name}'", width * height, MAX_LEVEL_PIXELS)
    check_limit(f"Pixels of a tile of '{source.name}'", (tile + 2 * overlap) ** 2, MAX_TILE_PIXELS)
    return width, height, tile, overlap, kind


def _mpp(folder: Path) -> tuple[float | None, float | None]:
    """Both sides of a pixel in um, which libvips copies from the slide into its file of properties."""
    try:
        root = fromstring((folder / "vips-properties.xml").read_text())
    except (OSError, ParseError, DefusedXmlException, ValueError):
        return None, None
    stated = {
        entry.findtext("{*}name"): entry.findtext("{*}value")
        for entry in root.iter()
        if entry.tag.endswith("}property")
    }
    return number(stated.get("openslide.mpp-x")), number(stated.get("openslide.mpp-y"))
