"""Decoders of one TIFF tile; each knows the size it must have before it decodes, so that a header cannot lie.

JPEG (whole or shrunk by the decoder), JPEG 2000, other picture formats, and byte compressions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsitool.slides.readers.layout import JPEG_COMPRESSIONS, PixelLayout

__all__ = [
    "DECODE_ERRORS",
    "JPEG_SHRINKS",
    "Decoder",
    "JpegDecoder",
    "claimed_samples",
    "make_decoder",
    "to_rgb",
]

RgbArray = NDArray[np.uint8]
Decoder = Callable[[bytes, int, int], RgbArray]
"""(tile bytes, row of the tile, shrink) -> (h, w, 3) uint8; raises one of DECODE_ERRORS."""

DECODE_ERRORS = (ValueError, RuntimeError, TypeError, LookupError, MemoryError, ArithmeticError, struct.error)
JPEG_SHRINKS = (2, 4, 8)

_SOI, _APP0 = b"\xff\xd8", b"\xff\xe0"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # the byte after it: 0 = RGB, 1 = YCbCr
_SIZ = b"\xff\x4f\xff\x51"
_MIN_IS_WHITE, _RGB, _PALETTE, _DIFFERENCES = 0, 2, 3, 2
_JPEG2000 = {33003: True, 33004: False, 33005: False, 34712: False}  # compression -> pixels are YCbCr
_OTHER_JPEG = (6, 34892)
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # ITU T.81, table B.1
_PICTURES = {
    50001: imagecodecs.webp_decode,
    34933: imagecodecs.png_decode,
    50002: imagecodecs.jpegxl_decode,
    52546: imagecodecs.jpegxl_decode,
    22610: imagecodecs.jpegxr_decode,
    34934: imagecodecs.jpegxr_decode,
}
_BYTES = {
    1: None,
    5: imagecodecs.lzw_decode,
    8: imagecodecs.zlib_decode,
    32946: imagecodecs.zlib_decode,
    32773: imagecodecs.packbits_decode,
    34925: imagecodecs.lzma_decode,
    34926: imagecodecs.zstd_decode,
    50000: imagecodecs.zstd_decode,
}


def make_decoder(layout: PixelLayout, jpeg_tables: bytes | None) -> Decoder | None:
    """The decoder of a directory's tiles; None for a compression, or JPEG of a kind, that none here knows.

    Samples of 16 bits become those of 8 by their high byte.
    """
    compression = layout.compression
    if compression in JPEG_COMPRESSIONS and layout.samples == 3:
        return JpegDecoder(layout, jpeg_tables)
    if compression in JPEG_COMPRESSIONS and layout.samples == 1:
        return _colored(layout, _GrayJpegDecoder(layout, jpeg_tables))
    if compression in _JPEG2000:
        return _colored(layout, _Jpeg2000Decoder(layout, is_ycbcr=_JPEG2000[compression]))
    if compression in _PICTURES:
        return _colored(layout, _PictureDecoder(layout, _PICTURES[compression]))
    if compression in _BYTES:
        return _colored(layout, _ByteDecoder(layout, _BYTES[compression]))
    return None


def _colored(layout: PixelLayout, decode: Decoder) -> Decoder:
    """`decode`, its samples made what they stand for: a negative's, or the colours of a palette."""
    if layout.photometric == _MIN_IS_WHITE:
        return lambda data, row, shrink: 255 - decode(data, row, shrink)
    if layout.photometric == _PALETTE:
        colors = layout.palette()
        return lambda data, row, shrink: colors[decode(data, row, shrink)[..., 0]]
    return decode


def _rows(layout: PixelLayout, row: int) -> int:
    """How many rows of pixels a tile (or the last strip, which is shorter) holds."""
    if layout.is_tiled:
        return layout.tile_height
    return min(layout.tile_height, layout.height - row * layout.tile_height)


class JpegDecoder:
    """Tiles of TIFF compression 7: splices the shared tables in and names the colour space.

    An abbreviated tile stream does not say whether it is RGB or YCbCr (the TIFF does), and decoders guess
    YCbCr; an Adobe marker says it, so that every later reader of the stream sees the right colours.
    """

    def __init__(self, layout: PixelLayout, tables: bytes | None) -> None:
        self._layout = layout
        self._is_rgb = layout.photometric == _RGB
        colors = b"\x00" if self._is_rgb else b"\x01"
        self._prefix = _SOI + _ADOBE + colors + (tables[2:-2] if tables else b"")

    def stream(self, data: bytes, row: int) -> bytes:
        """The complete JPEG stream of a tile; ValueError if it is not one of the tile's size."""
        if data[:2] != _SOI:
            raise ValueError("no JPEG start marker")
        start = 2
        if self._is_rgb and data[2:4] == _APP0:  # a JFIF marker would mean YCbCr and outweigh the Adobe one
            start += 2 + int.from_bytes(data[4:6], "big")
        stream = self._prefix + data[start:]
        subsampling = _check_jpeg(stream, self._layout, row, ("RGB", "YCbCr"))
        if self._is_rgb and subsampling != "444":
            raise ValueError(f"JPEG with {subsampling} chroma where the file says RGB")
        return stream

    def __call__(self, data: bytes, row: int, shrink: int) -> RgbArray:
        stream = self.stream(data, row)
        if shrink == 1:
            return np.asarray(simplejpeg.decode_jpeg(stream))
        width, height = self._layout.tile_width // shrink, self._layout.tile_height // shrink
        return np.asarray(
            simplejpeg.decode_jpeg(stream, min_width=width, min_height=height, min_factor=shrink)
        )


class _GrayJpegDecoder:
    """Tiles of compression 7 with one sample a pixel."""

    def __init__(self, layout: PixelLayout, tables: bytes | None) -> None:
        self._layout, self._tables = layout, tables[2:-2] if tables else b""

    def __call__(self, data: bytes, row: int, shrink: int) -> RgbArray:
        stream = _SOI + self._tables + data[2:]
        _check_jpeg(stream, self._layout, row, ("Gray",))
        return to_rgb(np.asarray(simplejpeg.decode_jpeg(stream, colorspace="GRAY")))


def _check_jpeg(stream: bytes, layout: PixelLayout, row: int, spaces: tuple[str, ...]) -> str:
    """The stream's chroma subsampling; ValueError unless it has the tile's size and one of the `spaces`."""
    height, width, space, subsampling = simplejpeg.decode_jpeg_header(stream)
    rest = layout.height - row * layout.tile_height  # some writers cut the last tiles off at the edge
    if width != layout.tile_width or height not in (layout.tile_height, rest):
        raise ValueError(f"JPEG of {width}x{height} in a tile of {layout.tile_width}x{layout.tile_height}")
    if space not in spaces:
        raise ValueError(f"{space} JPEG where the file says {' or '.join(spaces)}")
    return str(subsampling)


class _Jpeg2000Decoder:
    """Tiles of Aperio's JPEG 2000 compressions, bare or in a JP2 box: 33003 is YCbCr, 33005 RGB."""

    def __init__(self, layout: PixelLayout, *, is_ycbcr: bool) -> None:
        self._layout, self._is_ycbcr = layout, is_ycbcr and layout.samples == 3

    def __call__(self, data: bytes, row: int, shrink: int) -> RgbArray:
        width, height, samples = _jpeg2000_size(data)
        layout = self._layout
        if (width, height, samples) != (layout.tile_width, _rows(layout, row), layout.samples):
            raise ValueError(
                f"JPEG 2000 of {width}x{height} with {samples} samples in a tile of "
                f"{layout.tile_width}x{_rows(layout, row)} with {layout.samples}"
            )
        pixels = to_rgb(_high_bytes(layout, imagecodecs.jpeg2k_decode(data)))
        return _ycbcr_to_rgb(pixels) if self._is_ycbcr else pixels


def _jpeg2000_size(data: bytes) -> tuple[int, int, int]:
    """(width, height, samples) by the codestream's own header (ISO 15444-1, A.5.1), bare or in a JP2 file."""
    at = 0
    while data[at : at + 4] != _SIZ:
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        if kind == b"jp2c":
            at += head
            if data[at : at + 4] != _SIZ:
                raise ValueError("JPEG 2000 without a size")
        elif length < head:
            raise ValueError("JPEG 2000 without a codestream")
        else:
            at += length
    x1, y1, x0, y0 = struct.unpack_from(">4I", data, at + 8)
    (samples,) = struct.unpack_from(">H", data, at + 40)
    return x1 - x0, y1 - y0, samples


def claimed_samples(compression: int, data: bytes) -> int:
    """How many samples a stored tile's own header claims; 0 for compressed bytes, which claim nothing.

    Raises one of DECODE_ERRORS, also for what is neither those nor JPEG or JPEG 2000.
    """
    if compression in _BYTES:
        return 0
    if compression in _JPEG2000:
        width, height, samples = _jpeg2000_size(data)
        return width * height * samples
    if compression not in (*JPEG_COMPRESSIONS, *_OTHER_JPEG):
        raise LookupError(f"the size of a tile of compression {compression} shows only when it is decoded")
    at = data.find(b"\xff")
    while at >= 0 and at + 10 <= len(data):
        marker, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        if marker in _START_OF_FRAME:
            height, width, samples = struct.unpack_from(">HHB", data, at + 5)
            return int(height * width * samples)
        stands_alone = marker in (0x00, 0x01, 0xD8, 0xFF)
        # As libjpeg does, pass over what lies between two markers.
        at = data.find(b"\xff", at + (1 if stands_alone else 2 + length))
    return 0


class _PictureDecoder:
    """Tiles that are whole pictures (WebP, PNG, JPEG XL, JPEG XR): a given array bounds what is decoded."""

    def __init__(self, layout: PixelLayout, decode: Callable[..., Any]) -> None:
        self._layout, self._decode = layout, decode

    def __call__(self, data: bytes, row: int, shrink: int) -> RgbArray:
        layout = self._layout
        depth = () if layout.samples == 1 else (layout.samples,)
        out = np.empty((_rows(layout, row), layout.tile_width, *depth), layout.sample_type.newbyteorder("="))
        return to_rgb(_high_bytes(layout, np.asarray(self._decode(data, out=out))))


class _ByteDecoder:
    """Tiles that are plain samples, packed as bytes or not at all: exactly as many as the tags make."""

    def __init__(self, layout: PixelLayout, unpack: Callable[..., Any] | None) -> None:
        self._layout, self._unpack = layout, unpack

    def __call__(self, data: bytes, row: int, shrink: int) -> RgbArray:
        layout = self._layout
        row_bytes = layout.tile_width * layout.samples * layout.sample_type.itemsize
        tile_bytes, expected = row_bytes * layout.tile_height, row_bytes * _rows(layout, row)
        if self._unpack is not None:
            data = self._unpack(data, out=tile_bytes + 1)  # one more shows that there is too much
        if len(data) not in (tile_bytes, expected):  # some writers fill the last strip up
            raise ValueError(f"it holds {len(data)} bytes of pixels where the tags make {expected}")
        pixels = np.frombuffer(data, layout.sample_type).reshape(-1, layout.tile_width, layout.samples)
        if layout.predictor == _DIFFERENCES:
            native = pixels.astype(layout.sample_type.newbyteorder("="), copy=False)
            pixels = imagecodecs.delta_decode(native, axis=1)
        return to_rgb(_high_bytes(layout, pixels))


def _high_bytes(layout: PixelLayout, pixels: NDArray[Any]) -> NDArray[Any]:
    """8-bit pixels as they are, and the high bytes of the 16-bit ones of a file that says 16 bits."""
    if layout.bits == 16 and (pixels.dtype.kind, pixels.dtype.itemsize) == ("u", 2):
        return (pixels >> 8).astype(np.uint8)
    return pixels


def to_rgb(pixels: NDArray[np.generic]) -> RgbArray:
    """(h, w), (h, w, 1), (h, w, 3) or (h, w, 4) uint8 as (h, w, 3); ValueError for anything else.

    A fourth sample is opacity: where there is none pixels are white, as libtiff and OpenSlide show them.
    """
    if pixels.dtype != np.uint8:
        raise ValueError(f"{pixels.dtype} pixels where 8-bit ones were expected")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise ValueError(f"pixels of shape {pixels.shape}")
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2).astype(np.uint8, copy=False)
    colors = np.asarray(pixels[..., :3], dtype=np.uint8)
    if pixels.shape[2] == 3:
        return colors
    return np.where(pixels[..., 3:] == 0, np.uint8(255), colors)


def _ycbcr_to_rgb(pixels: RgbArray) -> RgbArray:
    # ITU-T T.871 (JFIF), full range, in the 16-bit fixed point of libjpeg.
    y, cb, cr = (pixels[..., i].astype(np.int32) for i in range(3))
    cb, cr = cb - 128, cr - 128
    half = 1 << 15
    red = y + ((91881 * cr + half) >> 16)
    green = y + ((-22554 * cb - 46802 * cr + half) >> 16)
    blue = y + ((116130 * cb + half) >> 16)
    return np.stack([red, green, blue], axis=-1).clip(0, 255).astype(np.uint8)
