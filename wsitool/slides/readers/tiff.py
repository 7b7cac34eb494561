"""Direct reader of TIFF-based slides: tifffile for structure, our own reads and decodes for pixels.

Bit-identical to OpenSlide on the levels' own pixels and several times faster, because no tile passes through
a drawing library. Tiled SVS (JPEG, JPEG 2000), generic, OME and Philips pyramids; strips with `strips=True`.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsitool.errors import RegionReadError, UnsupportedSlideError
from wsitool.slides.readers.byte_source import ByteSource, stem
from wsitool.slides.readers.codecs import (
    DECODE_ERRORS,
    JPEG_SHRINKS,
    Decoder,
    JpegDecoder,
    make_decoder,
    to_rgb,
)
from wsitool.slides.readers.directories import TIFF_MAGIC, Directory, read_directories
from wsitool.slides.readers.layout import JPEG_COMPRESSIONS, PixelLayout, pixel_layout
from wsitool.slides.readers.picture import UPRIGHT, turned
from wsitool.slides.readers.resolution import resolve_mpp, square_mpp
from wsitool.slides.readers.source import fingerprint
from wsitool.slides.readers.tiff_facts import TiffFacts, tiff_facts
from wsitool.slides.readers.tiff_pages import level_pages
from wsitool.slides.readers.tiles import TiledSlide, stated_levels
from wsitool.slides.slide import BLANK_TILES, NOT_SQUARE, SlideInfo

__all__ = ["PlanesLevel", "TiffLevel", "open_tiff"]

RgbArray = NDArray[np.uint8]

# What tifffile raises on damaged files: it reports through whatever fails first.
_MALFORMED = (tifffile.TiffFileError, AttributeError, EOFError, OSError, RecursionError, *DECODE_ERRORS)
_MAX_TILE_BYTES = 2**31
_RGB, _PALETTE, _YCBCR = 2, 3, 6
# Samples a pixel may have for each photometric interpretation that is read; a fourth one is alpha.
_SAMPLES = {0: (1,), 1: (1,), _RGB: (3, 4), _PALETTE: (1,), _YCBCR: (3, 4)}
_YCBCR_JPEG2000 = 33003
_ORIENTATION = 274

# Its warnings about odd tags are for developers; what matters reaches the user as our errors.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TiffLevel:
    """One level of a TIFF; see `wsitool.slides.readers.tiles.TileLevel`."""

    def __init__(
        self, layout: PixelLayout, decode: Decoder, size: tuple[int, int], index: int, *, is_sparse: bool
    ) -> None:
        self.width, self.height = size
        self.tile_width, self.tile_height = layout.tile_width, layout.tile_height
        self._index, self._source, self._is_sparse = index, layout.directory.source, is_sparse
        self._columns, self._planes, self._tiles_per_plane = (
            layout.columns,
            layout.planes,
            layout.tiles_per_plane,
        )
        self._offsets, self._counts = layout.table(0), layout.table(1)
        self._overlapping = layout.overlapping()
        self._decode = decode
        self.passthrough = isinstance(self._decode, JpegDecoder)
        self.shrinks = tuple(
            k for k in JPEG_SHRINKS if self.passthrough and not (self.tile_width % k or self.tile_height % k)
        )

    def decode(self, column: int, row: int, *, shrink: int = 1) -> RgbArray:
        """See `TileLevel.decode`; `shrink` must be 1 or one of `shrinks`."""
        stored = self.stored(column, row)
        if not stored:
            return np.full((self.tile_height // shrink, self.tile_width // shrink, 3), 255, np.uint8)
        try:
            parts = [self._decode(data, row, shrink) for data in stored]
            tile = parts[0] if len(parts) == 1 else to_rgb(np.stack([part[..., 0] for part in parts], -1))
        except DECODE_ERRORS as error:
            raise self._failure(column, row, str(error) or type(error).__name__) from error
        visible_h = min(self.tile_height, self.height - row * self.tile_height) // shrink
        visible_w = min(self.tile_width, self.width - column * self.tile_width) // shrink
        if tile.shape[0] < visible_h or tile.shape[1] < visible_w:
            raise self._failure(column, row, f"decoded to {tile.shape[1]}x{tile.shape[0]} pixels only")
        return tile

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        """See `TileLevel.prefetch`."""
        indices = [i for column, row in places for i in self._indices(column, row)]
        self._source.prefetch(
            (int(self._offsets[i]), int(self._counts[i])) for i in indices if i < len(self._counts)
        )

    def jpeg(self, column: int, row: int) -> bytes:
        """See `TileLevel.jpeg`; a tile without an end marker is an error, as it was cut off."""
        stored = self.stored(column, row)
        if len(stored) != 1 or not isinstance(self._decode, JpegDecoder):
            raise self._failure(column, row, "it is not a JPEG tile")
        data = stored[0]
        try:
            stream = self._decode.stream(data, row)
        except ValueError as error:
            raise self._failure(column, row, str(error)) from error
        if b"\xff\xd9" not in data[-16:]:
            raise self._failure(column, row, "it has no JPEG end marker")
        return stream

    def stored(self, column: int, row: int) -> list[bytes]:
        """The bytes of one tile, of each of its planes where these lie apart; none of a tile left blank.

        Raises RegionReadError.
        """
        stored = [self._bytes(column, row, index) for index in self._indices(column, row)]
        return [data for data in stored if data is not None]

    def _indices(self, column: int, row: int) -> range:
        """Where in the tables the planes of a tile stand."""
        first = row * self._columns + column
        return range(first, first + self._planes * self._tiles_per_plane, self._tiles_per_plane)

    def _bytes(self, column: int, row: int, index: int) -> bytes | None:
        if index >= len(self._counts) or index >= len(self._offsets):
            raise self._failure(column, row, "the file has no such tile")
        offset, count = int(self._offsets[index]), int(self._counts[index])
        if count == 0:
            if self._is_sparse and offset == 0:
                return None
            raise self._failure(column, row, "it is empty (zero length)")
        if index in self._overlapping:
            raise self._failure(column, row, "its bytes belong to something else, too")
        if count > _MAX_TILE_BYTES:
            raise self._failure(column, row, f"its length of {count} bytes cannot be true")
        try:
            data = self._source.read(offset, count)
        except (OSError, OverflowError) as error:
            raise self._failure(column, row, str(error)) from error
        if len(data) < count:
            raise self._failure(column, row, "the file ends before it does")
        return data

    @property
    def blank(self) -> int:
        """How many tiles the file leaves out, whose pixels are white."""
        out = (self._offsets == 0) & (self._counts == 0)
        return int(np.count_nonzero(out)) if self._is_sparse else 0

    def _failure(self, column: int, row: int, reason: str) -> RegionReadError:
        return RegionReadError(
            f"tile column {column}, row {row} of level {self._index} cannot be read: {reason}"
        )


class PlanesLevel:
    """A level whose red, green and blue are grey pages of their own; see `TileLevel`."""

    shrinks: tuple[int, ...] = ()
    passthrough = False

    def __init__(self, planes: list[TiffLevel]) -> None:
        self._planes = planes
        self.width, self.height = planes[0].width, planes[0].height
        self.tile_width, self.tile_height = planes[0].tile_width, planes[0].tile_height

    @property
    def blank(self) -> int:
        """How many tiles the file leaves out of the first plane."""
        return self._planes[0].blank

    def decode(self, column: int, row: int, *, shrink: int = 1) -> RgbArray:
        """See `TileLevel.decode`."""
        return np.stack([plane.decode(column, row)[..., 0] for plane in self._planes], axis=-1)

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        """See `TileLevel.prefetch`."""
        places = list(places)
        for plane in self._planes:
            plane.prefetch(places)

    def jpeg(self, column: int, row: int) -> bytes:
        """See `TileLevel.jpeg`."""
        raise RegionReadError(f"tile column {column}, row {row} is three grey pictures and no JPEG")


def open_tiff(
    source: ByteSource,
    *,
    default_mpp: float | None = None,
    channels: tuple[int, ...] = (),
    strips: bool = False,
    reader: str = "tiff",
) -> TiledSlide:
    """Open a tiled TIFF, or with `strips` also one stored in strips, directly.

    `channels` of a file of grey pages are red, green and blue, () where it has colors.

    Raises RefusedSlideError where the file is damaged or contradicts itself, and UnsupportedSlideError where
    it is of a kind left to other readers (NDPI, Leica SCN, Ventana BIF with overlapping tiles, CMYK, ...).
    """
    if source.read(0, 4) not in TIFF_MAGIC:
        raise UnsupportedSlideError(
            f"'{source.name}' is not a readable TIFF slide: it does not begin as a TIFF."
        )
    directories = {directory.offset: directory for directory in read_directories(source)}
    if next(iter(directories.values())).is_ndpi:
        raise UnsupportedSlideError("NDPI files are read by OpenSlide.")
    try:
        with source.stream() as stream, tifffile.TiffFile(stream) as tiff:
            planes = level_pages(tiff, source.name, channels)
            metadata = tiff_facts(tiff, planes[0][0])
            # Sparse files leave tiles out; one that Aperio's scanner leaves out it could not write.
            levels = tuple(
                _level(pages, directories, i, strips=strips, is_sparse=not tiff.is_svs)
                for i, pages in enumerate(planes)
            )
    except _MALFORMED as error:
        raise UnsupportedSlideError(
            f"'{source.name}' is not a readable TIFF slide: {_first_line(error)}."
        ) from error
    info = _slide_info(source, planes[0][0], levels, metadata, reader=reader, default_mpp=default_mpp)
    slide = TiledSlide(info, levels, source)
    orientation = _orientation(directories[planes[0][0].offset])
    return slide if orientation == UPRIGHT else turned(slide, orientation, source)


def _level(
    pages: list[tifffile.TiffPage],
    directories: dict[int, Directory],
    index: int,
    *,
    strips: bool,
    is_sparse: bool,
) -> TiffLevel | PlanesLevel:
    """One level; raises UnsupportedSlideError where it is of a kind that is not read directly."""
    levels = [_page_level(page, directories, index, strips=strips, is_sparse=is_sparse) for page in pages]
    return levels[0] if len(levels) == 1 else PlanesLevel(levels)


def _page_level(
    page: tifffile.TiffPage,
    directories: dict[int, Directory],
    index: int,
    *,
    strips: bool,
    is_sparse: bool,
) -> TiffLevel:
    if page.offset not in directories:
        raise UnsupportedSlideError("its directories are linked in an unknown way")
    layout = pixel_layout(directories[page.offset])
    planes_apart = layout.planes > 1
    decode = make_decoder(layout.plane() if planes_apart else layout, page.jpegtables)
    problem = ""
    if not layout.is_tiled and not strips:
        raise UnsupportedSlideError("It is a TIFF without tiles: the image reader takes it.")
    if layout.sample_format != 1:
        problem = "its samples are not whole positive numbers"
    elif layout.bits not in _bits_read(layout):
        problem = f"{layout.bits}-bit samples of compression {layout.compression}"
    elif planes_apart and (layout.photometric != _RGB or layout.compression == _YCBCR_JPEG2000):
        problem = "its planes are stored apart and are not red, green and blue"
    elif page.imagedepth != 1:
        problem = "it is a volume"
    elif layout.photometric not in _SAMPLES:
        problem = f"photometric interpretation {layout.photometric} is not RGB, YCbCr, grey or a palette"
    elif layout.photometric == _YCBCR and layout.compression not in JPEG_COMPRESSIONS:
        problem = "its YCbCr pixels are not JPEG"
    elif layout.samples not in _SAMPLES[layout.photometric]:
        problem = f"{layout.samples} samples per pixel of photometric interpretation {layout.photometric}"
    elif layout.fill_order != 1:
        problem = "its bits are stored in reverse"
    if problem or decode is None:
        problem = problem or f"compression {layout.compression} is unknown"
        raise UnsupportedSlideError(f"This TIFF cannot be read directly: {problem}.")
    size = (int(page.imagewidth), int(page.imagelength))  # of a Philips level less than its tags say
    return TiffLevel(layout, decode, size, index, is_sparse=is_sparse and not planes_apart)


def _bits_read(layout: PixelLayout) -> tuple[int, ...]:
    only_8 = layout.compression in JPEG_COMPRESSIONS or layout.photometric == _PALETTE
    return (8,) if only_8 else (8, 16)


def _slide_info(
    source: ByteSource,
    page: tifffile.TiffPage,
    levels: tuple[TiffLevel | PlanesLevel, ...],
    metadata: TiffFacts,
    *,
    reader: str,
    default_mpp: float | None,
) -> SlideInfo:
    base = levels[0]
    stated, sides = square_mpp(metadata.mpp_x, metadata.mpp_y)
    mpp, mpp_source = resolve_mpp(stated, None if sides else metadata.objective_power, default_mpp)
    compression = getattr(page.compression, "name", str(page.compression))
    shape = "tiles" if page.is_tiled else "strips"
    return SlideInfo(
        path=source.path,
        name=stem(source.name),
        reader=reader,
        format=f"{metadata.format}, {compression} {shape} {base.tile_width}x{base.tile_height}",
        levels=stated_levels(levels),
        mpp=mpp,
        mpp_source=mpp_source,
        objective_power=metadata.objective_power,
        fingerprint=fingerprint(source),
        icc_profile=metadata.icc_profile,
        properties={
            "description": metadata.description,
            "compression": compression,
            **({NOT_SQUARE: sides} if sides else {}),
            **({BLANK_TILES: f"{base.blank:,}"} if base.blank else {}),
        },
    )


def _orientation(directory: Directory) -> int:
    """How the picture is to be turned to stand upright (TIFF 6.0, tag 274)."""
    return (directory.numbers(_ORIENTATION, most=1) or (UPRIGHT,))[0]


def _first_line(error: BaseException) -> str:
    if isinstance(error, struct.error | EOFError | LookupError | AttributeError | TypeError):
        return "it is damaged or cut off"  # such texts are about tifffile's inside
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
