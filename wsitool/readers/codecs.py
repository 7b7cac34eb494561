"""Decoders of one TIFF tile: JPEG (whole or shrunk by the decoder), JPEG 2000, and what tifffile knows."""

from __future__ import annotations

import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

__all__ = ["DECODE_ERRORS", "JPEG_SHRINKS", "Decoder", "Jpeg2000Decoder", "JpegDecoder", "to_rgb"]

RgbArray = NDArray[np.uint8]
Decoder = Callable[[bytes, int, int], RgbArray]
"""(tile bytes, index of the tile, shrink) -> (h, w, 3) uint8; raises one of DECODE_ERRORS."""

DECODE_ERRORS = (ValueError, RuntimeError, TypeError, LookupError, MemoryError, ArithmeticError, struct.error)
JPEG_SHRINKS = (2, 4, 8)

_SOI, _APP0 = b"\xff\xd8", b"\xff\xe0"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # the byte after it: 0 = RGB, 1 = YCbCr
_SIZ = b"\xff\x4f\xff\x51"


class JpegDecoder:
    """Tiles of TIFF compression 7: splices the shared tables in and names the colour space.

    An abbreviated tile stream does not say whether it is RGB or YCbCr (the TIFF does), and decoders guess
    YCbCr; an Adobe marker says it, so that every later reader of the stream sees the right colours.
    """

    def __init__(self, *, tables: bytes | None, is_rgb: bool, width: int, height: int) -> None:
        self._prefix = _SOI + _ADOBE + (b"\x00" if is_rgb else b"\x01") + (tables[2:-2] if tables else b"")
        self._is_rgb = is_rgb
        self._size = (height, width)

    def stream(self, data: bytes) -> bytes:
        """The complete JPEG stream of a tile; ValueError if it is not one of the tile's size."""
        if data[:2] != _SOI:
            raise ValueError("no JPEG start marker")
        start = 2
        if self._is_rgb and data[2:4] == _APP0:  # a JFIF marker would mean YCbCr and outweigh the Adobe one
            start += 2 + int.from_bytes(data[4:6], "big")
        stream = self._prefix + data[start:]
        height, width, *_ = simplejpeg.decode_jpeg_header(stream)
        if width != self._size[1] or height > self._size[0]:
            raise ValueError(f"JPEG of {width}x{height} in a tile of {self._size[1]}x{self._size[0]}")
        return stream

    def __call__(self, data: bytes, index: int, shrink: int) -> RgbArray:
        stream = self.stream(data)
        if shrink == 1:
            return np.asarray(simplejpeg.decode_jpeg(stream))
        height, width = (side // shrink for side in self._size)
        return np.asarray(
            simplejpeg.decode_jpeg(stream, min_width=width, min_height=height, min_factor=shrink)
        )


class Jpeg2000Decoder:
    """Tiles of Aperio's JPEG 2000 compressions: 33003 is YCbCr, 33005 RGB."""

    def __init__(self, *, is_ycbcr: bool, width: int, height: int) -> None:
        self._is_ycbcr = is_ycbcr
        self._size = (height, width)

    def __call__(self, data: bytes, index: int, shrink: int) -> RgbArray:
        if data[:4] == _SIZ and len(data) >= 42:
            # A damaged header must not make the decoder reserve gigabytes.
            x1, y1, x0, y0 = struct.unpack(">4I", data[8:24])
            if (y1 - y0, x1 - x0) != self._size or int.from_bytes(data[40:42], "big") > 4:
                raise ValueError(f"JPEG 2000 of {x1 - x0}x{y1 - y0} in a tile of another size")
        pixels = to_rgb(imagecodecs.jpeg2k_decode(data))
        return _ycbcr_to_rgb(pixels) if self._is_ycbcr else pixels


def to_rgb(pixels: NDArray[np.generic]) -> RgbArray:
    """(h, w), (h, w, 1), (h, w, 3) or (h, w, 4) uint8 as (h, w, 3); ValueError for anything else."""
    if pixels.dtype != np.uint8:
        raise ValueError(f"{pixels.dtype} pixels where 8-bit ones were expected")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise ValueError(f"pixels of shape {pixels.shape}")
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2).astype(np.uint8, copy=False)
    return np.asarray(pixels[..., :3], dtype=np.uint8)


def _ycbcr_to_rgb(pixels: RgbArray) -> RgbArray:
    # ITU-T T.871 (JFIF), full range, in the 16-bit fixed point of libjpeg.
    y, cb, cr = (pixels[..., i].astype(np.int32) for i in range(3))
    cb, cr = cb - 128, cr - 128
    half = 1 << 15
    red = y + ((91881 * cr + half) >> 16)
    green = y + ((-22554 * cb - 46802 * cr + half) >> 16)
    blue = y + ((116130 * cb + half) >> 16)
    return np.stack([red, green, blue], axis=-1).clip(0, 255).astype(np.uint8)
