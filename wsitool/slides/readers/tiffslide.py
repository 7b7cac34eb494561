"""Reader over tiffslide: a second opinion on TIFFs, and the way to those that the other readers refuse."""

from __future__ import annotations

import contextlib
import math
import threading

import numpy as np
import tiffslide
from numpy.typing import NDArray

from wsitool.errors import UnsupportedSlideError
from wsitool.slides.readers.byte_source import ByteSource
from wsitool.slides.readers.openslide import OpenSlideSlide, region_levels, slide_info
from wsitool.slides.slide import Level

__all__ = ["open_tiffslide"]

# What it raises on damaged files; decoders' own errors are kinds of RuntimeError.
_ERRORS = (tiffslide.TiffFileError, RuntimeError, OSError, ValueError, LookupError, TypeError)


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
        place = (math.ceil(left * scale), math.ceil(top * scale))
        with self._lock:
            try:
                pixels = self._handle.read_region(place, level, size, as_array=True, padding=True)
            except _ERRORS as error:  # a decoder's own are no OSError
                raise OSError(str(error) or type(error).__name__) from error
        # tiffslide pads with black, which is not what glass looks like: mark the padding as transparent.
        rgba = np.zeros((size[1], size[0], 4), np.uint8)
        rgba[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0), 3] = 255
        rgba[..., :3] = pixels[..., :3]
        return rgba

    def close(self) -> None:
        self._handle.close()


def open_tiffslide(source: ByteSource, *, default_mpp: float | None = None) -> OpenSlideSlide:
    """Open a local TIFF through tiffslide; UnsupportedSlideError if it refuses the file."""
    with contextlib.ExitStack() as undo:
        try:
            handle = tiffslide.TiffSlide(source.path)
            undo.callback(handle.close)
            dimensions, downsamples = handle.level_dimensions, handle.level_downsamples
            handle.read_region((0, 0), 0, (1, 1), as_array=True)  # an unknown compression shows only here
        except _ERRORS as error:
            raise UnsupportedSlideError(f"tiffslide refuses it: {error}.") from error
        undo.pop_all()
    properties = {key: str(value) for key, value in handle.properties.items() if value is not None}
    levels = tuple(
        Level(width=width, height=height, downsample=downsample)
        for (width, height), downsample in zip(dimensions, downsamples, strict=True)
    )
    reader = _Handle(handle)
    info = slide_info(source, properties, levels, default_mpp, reader="tiffslide")
    return OpenSlideSlide(info, region_levels(reader, properties, levels, reader="tiffslide"), source, reader)
