"""Direct reader of TIFF-based slides: tifffile for structure, our own reads and decodes for pixels.

Bit-identical to OpenSlide on the levels' own pixels and several times faster, because no tile passes through
a drawing library. Tiled SVS (JPEG, JPEG 2000), generic, OME and Philips pyramids; strips with `strips=True`.
"""

from __future__ import annotations

import logging
import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsitool.errors import RegionReadError, UnsupportedSlideError
from wsitool.readers.codecs import (
    DECODE_ERRORS,
    JPEG_SHRINKS,
    Decoder,
    Jpeg2000Decoder,
    JpegDecoder,
    to_rgb,
)
from wsitool.readers.resolution import resolve_mpp
from wsitool.readers.source import ByteSource, file_name, fingerprint, open_bytes
from wsitool.readers.tiff_facts import TiffFacts, tiff_facts
from wsitool.readers.tiles import TiledSlide
from wsitool.slide import Level, SlideInfo

__all__ = ["TIFF_MAGIC", "TiffLevel", "TiffSlide", "open_tiff"]

RgbArray = NDArray[np.uint8]
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# What tifffile raises on damaged files: it reports through whatever fails first.
_MALFORMED = (tifffile.TiffFileError, AttributeError, EOFError, OSError, RecursionError, *DECODE_ERRORS)
_MAX_TILE_BYTES = 2**31
_JPEG = 7
_JPEG2000 = {33003: True, 33004: True, 33005: False, 34712: False}  # compression -> pixels are YCbCr
# tifffile fills in defaults where a tag is damaged; pixels read by a guess would be wrong ones.
_REQUIRED_TAGS = ("ImageWidth", "ImageLength", "BitsPerSample", "Compression", "PhotometricInterpretation")
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _YCBCR = 0, 1, 2, 6

# Its warnings about odd tags are for developers; what matters reaches the user as our errors.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TiffLevel:
    """One level of a TIFF; see `wsitool.readers.tiles.TileLevel`."""

    def __init__(
        self, page: tifffile.TiffPage, index: int, source: ByteSource, *, blank_if_empty: bool
    ) -> None:
        self.width, self.height = int(page.imagewidth), int(page.imagelength)
        self.tile_width, self.tile_height = _tile_size(page)
        self._index, self._source, self._blank_if_empty = index, source, blank_if_empty
        self._columns = -(-self.width // self.tile_width)
        self._offsets = np.asarray(page.dataoffsets, np.uint64)
        self._counts = np.asarray(page.databytecounts, np.uint64)
        self._decode: Decoder = _decoder(page, self.tile_width, self.tile_height)
        self.passthrough = isinstance(self._decode, JpegDecoder)
        self.shrinks = tuple(
            k for k in JPEG_SHRINKS if self.passthrough and not (self.tile_width % k or self.tile_height % k)
        )

    def decode(self, column: int, row: int, *, shrink: int = 1) -> RgbArray:
        """See `TileLevel.decode`; `shrink` must be 1 or one of `shrinks`."""
        data = self._bytes(column, row)
        if data is None:
            return np.full((self.tile_height // shrink, self.tile_width // shrink, 3), 255, np.uint8)
        try:
            tile = self._decode(data, row * self._columns + column, shrink)
        except DECODE_ERRORS as error:
            raise self._failure(column, row, str(error) or type(error).__name__) from error
        visible_h = min(self.tile_height, self.height - row * self.tile_height) // shrink
        visible_w = min(self.tile_width, self.width - column * self.tile_width) // shrink
        if tile.shape[0] < visible_h or tile.shape[1] < visible_w:
            raise self._failure(column, row, f"decoded to {tile.shape[1]}x{tile.shape[0]} pixels only")
        return tile

    def jpeg(self, column: int, row: int) -> bytes:
        """See `TileLevel.jpeg`; a tile without an end marker is an error, as it was cut off."""
        data = self._bytes(column, row)
        if data is None or not isinstance(self._decode, JpegDecoder):
            raise self._failure(column, row, "it is not a JPEG tile")
        try:
            stream = self._decode.stream(data)
        except ValueError as error:
            raise self._failure(column, row, str(error)) from error
        if b"\xff\xd9" not in data[-16:]:
            raise self._failure(column, row, "it has no JPEG end marker")
        return stream

    def _bytes(self, column: int, row: int) -> bytes | None:
        index = row * self._columns + column
        if index >= len(self._counts) or index >= len(self._offsets):
            raise self._failure(column, row, "the file has no such tile")
        offset, count = int(self._offsets[index]), int(self._counts[index])
        if count == 0:
            if self._blank_if_empty:
                return None
            raise self._failure(column, row, "it is empty (zero length)")
        if count > _MAX_TILE_BYTES:
            raise self._failure(column, row, f"its length of {count} bytes cannot be true")
        try:
            data = self._source.read(offset, count)
        except (OSError, OverflowError) as error:
            raise self._failure(column, row, str(error)) from error
        if len(data) < count:
            raise self._failure(column, row, "the file ends before it does")
        return data

    def _failure(self, column: int, row: int, reason: str) -> RegionReadError:
        return RegionReadError(
            f"tile column {column}, row {row} of level {self._index} cannot be read: {reason}"
        )


class TiffSlide(TiledSlide):
    """An open TIFF slide."""

    def __init__(self, info: SlideInfo, levels: tuple[TiffLevel, ...], source: ByteSource) -> None:
        super().__init__(info, levels)
        self._source = source

    def close(self) -> None:
        super().close()
        self._source.close()


def open_tiff(
    path: str | Path, *, default_mpp: float | None = None, strips: bool = False, reader: str = "tiff"
) -> TiffSlide:
    """Open a tiled TIFF, or with `strips` also one stored in strips, directly.

    Raises UnsupportedSlideError where the file is damaged or of a kind left to OpenSlide (NDPI, Leica SCN,
    Ventana BIF with overlapping tiles, ...).
    """
    source = open_bytes(path)
    try:
        with source.stream() as stream, tifffile.TiffFile(stream) as tiff:
            pages = _level_pages(tiff, strips=strips)
            facts = tiff_facts(tiff)
            levels = tuple(
                TiffLevel(page, i, source, blank_if_empty=bool(tiff.is_philips))
                for i, page in enumerate(pages)
            )
    except _MALFORMED as error:
        source.close()
        raise UnsupportedSlideError(
            f"'{file_name(path)}' is not a readable TIFF slide: {_first_line(error)}."
        ) from error
    except UnsupportedSlideError:
        source.close()
        raise
    info = _slide_info(path, pages[0], levels, facts, reader=reader, default_mpp=default_mpp)
    return TiffSlide(info, levels, source)


def _level_pages(tiff: tifffile.TiffFile, *, strips: bool) -> list[tifffile.TiffPage]:
    """The pages of the pyramid, largest first; UnsupportedSlideError names what is in the way."""
    for kind in ("ndpi", "scn", "bif", "qpi", "vsi"):
        if getattr(tiff, f"is_{kind}", False):
            raise UnsupportedSlideError(f"{kind.upper()} files are read by OpenSlide.")
    if tiff.is_svs:
        # tifffile takes the second page for the thumbnail even where there is none; as OpenSlide does,
        # tell levels from thumbnail, label and macro by their tiles.
        whole = [page.aspage() for page in tiff.pages]
        pages = [page for page in whole if page.is_tiled] or whole[:1]
    else:
        pages = [level.keyframe for level in tiff.series[0].levels]
    base = pages[0]
    kept = [base]
    for page in pages[1:]:
        ratio_x, ratio_y = base.imagewidth / page.imagewidth, base.imagelength / page.imagelength
        # Rounding may cost a small level up to a pixel per side; anything more is another picture.
        if abs(ratio_x - ratio_y) <= 0.02 * max(ratio_x, ratio_y) + 2 * ratio_x / min(page.shape[:2]):
            kept.append(page)
    for page in kept:
        _check(page, strips=strips)
    return kept


def _check(page: tifffile.TiffPage, *, strips: bool) -> None:
    if not page.is_tiled and not strips:
        raise UnsupportedSlideError("It is a TIFF without tiles: the image reader takes it.")
    missing = [name for name in _REQUIRED_TAGS if name not in page.tags]
    problem = ""
    if missing:
        problem = f"its tag {missing[0]} is missing or damaged"
    elif page.bitspersample != 8 or page.sampleformat != 1:
        problem = f"{page.bitspersample}-bit samples where 8-bit ones are expected"
    elif page.planarconfig != 1 and page.samplesperpixel > 1:
        problem = "its colour planes are stored apart"
    elif page.imagedepth != 1:
        problem = "it is a volume"
    elif page.photometric not in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _YCBCR):
        problem = f"photometric interpretation {page.photometric} is not RGB, YCbCr or grey"
    elif page.photometric == _YCBCR and page.compression != _JPEG:
        problem = "its YCbCr pixels are not JPEG"
    elif page.samplesperpixel not in (1, 3, 4):
        problem = f"{page.samplesperpixel} samples per pixel"
    elif min(page.imagewidth, page.imagelength, *_tile_size(page)) < 1:
        problem = "its size is zero"
    elif _tile_size(page)[0] * _tile_size(page)[1] * 3 > _MAX_TILE_BYTES:
        problem = "one of its tiles is larger than 2 GB"
    elif len(page.dataoffsets) < _tile_count(page) or len(page.databytecounts) < _tile_count(page):
        problem = f"it lists {len(page.dataoffsets)} of its {_tile_count(page)} tiles"
    elif page.compression not in tifffile.TIFF.DECOMPRESSORS:
        problem = f"compression {int(page.compression)} is unknown"
    if problem:
        raise UnsupportedSlideError(f"This TIFF cannot be read directly: {problem}.")


def _tile_size(page: tifffile.TiffPage) -> tuple[int, int]:
    if page.is_tiled:
        return int(page.tilewidth), int(page.tilelength)
    return int(page.imagewidth), min(int(page.rowsperstrip), int(page.imagelength))


def _tile_count(page: tifffile.TiffPage) -> int:
    width, height = _tile_size(page)
    return -(-int(page.imagewidth) // width) * -(-int(page.imagelength) // height)


def _decoder(page: tifffile.TiffPage, width: int, height: int) -> Decoder:
    if page.compression == _JPEG and page.samplesperpixel == 3:
        is_rgb = page.photometric == _RGB
        return JpegDecoder(tables=page.jpegtables, is_rgb=is_rgb, width=width, height=height)
    if page.compression in _JPEG2000:
        is_ycbcr = _JPEG2000[page.compression]
        return Jpeg2000Decoder(is_ycbcr=is_ycbcr, width=width, height=height)
    return partial(_decode_generic, page)


def _decode_generic(page: tifffile.TiffPage, data: bytes, index: int, shrink: int) -> RgbArray:
    decoded: Any = page.decode(data, index, jpegtables=page.jpegtables)[0]
    if decoded is None:
        raise ValueError("the decoder returned nothing")
    pixels = to_rgb(decoded[0])
    return 255 - pixels if page.photometric == _MIN_IS_WHITE else pixels


def _slide_info(
    path: str | Path,
    page: tifffile.TiffPage,
    levels: tuple[TiffLevel, ...],
    facts: TiffFacts,
    *,
    reader: str,
    default_mpp: float | None,
) -> SlideInfo:
    base = levels[0]
    mpp, source = resolve_mpp(facts.mpp, facts.objective_power, default_mpp)
    compression = getattr(page.compression, "name", str(page.compression))
    shape = "tiles" if page.is_tiled else "strips"
    name = file_name(path)
    return SlideInfo(
        path=str(path),
        name=name.rsplit(".", 1)[0] if "." in name else name,
        reader=reader,
        format=f"{facts.format}, {compression} {shape} {base.tile_width}x{base.tile_height}",
        levels=tuple(
            Level(
                width=level.width,
                height=level.height,
                downsample=(base.width / level.width + base.height / level.height) / 2,
            )
            for level in levels
        ),
        mpp=mpp,
        mpp_source=source,
        objective_power=facts.objective_power,
        fingerprint=fingerprint(path),
        properties={"description": facts.description, "compression": compression},
    )


def _first_line(error: BaseException) -> str:
    if isinstance(error, struct.error | EOFError | LookupError | AttributeError | TypeError):
        return "it is damaged or cut off"  # such texts are about tifffile's inside
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
