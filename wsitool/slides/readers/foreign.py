"""Slides of readers that are installed: held to their contract, and named where they do not keep it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import PluginError
from wsitool.slides.reader_registry import READERS, SlideReader
from wsitool.slides.readers.byte_source import ByteSource
from wsitool.slides.readers.tiles import TiledSlide, TileLevel

__all__ = ["open_foreign"]


def open_foreign(
    reader: SlideReader, source: ByteSource, default_mpp: float | None, **options: Any
) -> TiledSlide:
    """Open `source` by an installed reader; PluginError, naming it, for what its contract does not allow."""
    slide = READERS.call(reader, reader.open, source, passes=(OSError,), default_mpp=default_mpp, **options)
    if not isinstance(slide, TiledSlide):
        raise PluginError(
            f"{READERS.who(reader)} must open a slide as a wsitool.TiledSlide, got {slide!r:.80}."
        )
    if slide.info.reader != reader.name:
        slide.close()
        raise PluginError(
            f"{READERS.who(reader)} must state its own name in SlideInfo.reader, got '{slide.info.reader}'."
        )
    slide.wrap_levels(lambda level: _ForeignLevel(reader, level))
    return slide


class _ForeignLevel:
    """A level of foreign code: its errors name the reader, its tiles are RGB of 8 bits."""

    def __init__(self, reader: SlideReader, level: TileLevel) -> None:
        self._reader, self._level = reader, level
        self.width, self.height = level.width, level.height
        self.tile_width, self.tile_height = level.tile_width, level.tile_height
        self.shrinks, self.passthrough = level.shrinks, level.passthrough

    def decode(self, column: int, row: int, *, shrink: int = 1) -> NDArray[np.uint8]:
        pixels = self._call(self._level.decode, column, row, shrink=shrink)
        good = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8
        if not good or pixels.ndim != 3 or pixels.shape[2] != 3:
            got = (
                f"{pixels.dtype} of shape {pixels.shape}"
                if isinstance(pixels, np.ndarray)
                else repr(pixels)[:80]
            )
            raise PluginError(f"{READERS.who(self._reader)} must decode tiles as uint8 (h, w, 3), got {got}.")
        return np.asarray(pixels)

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        self._call(self._level.prefetch, places)

    def jpeg(self, column: int, row: int) -> bytes:
        return bytes(self._call(self._level.jpeg, column, row))

    def _call(self, function: Any, *args: Any, **options: Any) -> Any:
        return READERS.guard(self._reader, function, *args, **options)
