"""Reader over tiffslide: a second opinion on TIFFs, and the way to those that the other readers refuse."""

from __future__ import annotations

import contextlib
import math
import threading
from typing import Any

import numpy as np
import tifffile
import tiffslide
from numpy.typing import NDArray

from wsitool.errors import UnsupportedSlideError
from wsitool.slides.readers.byte_source import ByteSource
from wsitool.slides.readers.codecs import DECODE_ERRORS, claimed_samples
from wsitool.slides.readers.layout import JPEG_COMPRESSIONS
from wsitool.slides.readers.openslide import OpenSlideSlide, region_levels, slide_info
from wsitool.slides.slide import Level

__all__ = ["open_tiffslide"]

# What it raises on damaged files: it reports through whatever fails first.
_OPENING_ERRORS = (tiffslide.TiffFileError, OSError, AttributeError, *DECODE_ERRORS)
_GREY, _RGB, _YCBCR, _JPEGS = 1, 2, 6, (6, *JPEG_COMPRESSIONS)


class _Handle:
    """One tiffslide handle; its reads take turns, as tiffslide promises nothing about threads."""

    def __init__(self, handle: tiffslide.TiffSlide) -> None:
        self._handle = handle
        self._lock = threading.Lock()

    def read(self, x0: int, y0: int, level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """(h, w, 4) RGBA; what lies outside the slide is transparent. OSError or ValueError if unreadable."""
        scale, (width, height) = self._handle.level_downsamples[level], self._handle.level_dimensions[level]
        left, top = round(x0 / scale), round(y0 / scale)
        # It rounds the level's coordinates down, which at odd downsamples is a pixel less than was meant.
        corner = (math.ceil(left * scale), math.ceil(top * scale))
        try:
            with self._lock:
                pixels = self._handle.read_region(corner, level, size, as_array=True, padding=True)
        except DECODE_ERRORS as error:
            raise ValueError(str(error) or type(error).__name__) from error
        if pixels.dtype == np.uint16:
            pixels = pixels >> 8
        # tiffslide pads with black, which is not what glass looks like: mark the padding as transparent.
        rgba = np.zeros((size[1], size[0], 4), np.uint8)
        rgba[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0), 3] = 255
        rgba[..., :3] = pixels[..., :3]
        return rgba

    def close(self) -> None:
        self._handle.close()


def _bound(page: tifffile.TiffPage) -> None:
    """Let tifffile decode no tile of `page` whose own header claims more than the tile has.

    It bounds what compressed bytes unpack to, but decodes a picture first and looks at its size then.
    """
    decode, compression = page.decode, int(page.compression)
    width, height = (page.tilewidth, page.tilelength) if page.is_tiled else page.shape[1::-1]
    most = width * height * page.samplesperpixel

    def bounded(data: bytes | None, index: int, /, **options: Any) -> Any:
        claimed = claimed_samples(compression, data) if data else 0
        if claimed > most:
            raise ValueError(f"a tile of {most} samples claims to have {claimed}")
        return decode(data, index, **options)

    page.__dict__["decode"] = bounded  # where the cached property keeps its function


def _problem(page: tifffile.TiffPage, kind: np.dtype[Any]) -> str:
    """What samples of `kind` are that tiffslide gives as they are stored, and that are no colors; or ""."""
    if kind not in (np.uint8, np.uint16):
        return f"its samples are of type {kind}"
    if page.photometric in (_GREY, _RGB) or (page.photometric == _YCBCR and page.compression in _JPEGS):
        return ""
    return f"photometric interpretation {int(page.photometric)} of compression {int(page.compression)}"


def open_tiffslide(source: ByteSource, *, default_mpp: float | None = None) -> OpenSlideSlide:
    """Open a local TIFF through tiffslide; UnsupportedSlideError if it refuses the file."""
    with contextlib.ExitStack() as undo:
        try:
            handle = tiffslide.TiffSlide(source.path)
            undo.callback(handle.close)
            dimensions, downsamples = handle.level_dimensions, handle.level_downsamples
            for series in handle.ts_tifffile.series:
                for level in series.levels:
                    _bound(level.keyframe)
            # An unknown compression shows only here.
            kind = handle.read_region((0, 0), 0, (1, 1), as_array=True).dtype
            problem = _problem(handle.ts_tifffile.series[0].levels[0].keyframe, kind)
        except _OPENING_ERRORS as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UnsupportedSlideError(f"tiffslide refuses it: {reason}.") from error
        if problem:
            raise UnsupportedSlideError(f"tiffslide shows it in wrong colors: {problem}.")
        undo.pop_all()
    properties = {key: str(value) for key, value in handle.properties.items() if value is not None}
    levels = tuple(
        Level(width=width, height=height, downsample=downsample)
        for (width, height), downsample in zip(dimensions, downsamples, strict=True)
    )
    reader = _Handle(handle)
    info = slide_info(source, properties, levels, default_mpp, reader="tiffslide")
    regions = region_levels(reader, source, properties, levels, reader="tiffslide")
    return OpenSlideSlide(info, regions, source, reader)
