"""Reader of Zeiss CZI files that OpenSlide refuses, through Zeiss's own library (extra `[czi]`)."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from numpy.typing import NDArray

from wsitool.base.limits import MAX_LEVEL_PIXELS, check_limit
from wsitool.base.urls import is_url
from wsitool.errors import RefusedSlideError, RegionReadError, UnsupportedSlideError
from wsitool.slides.readers.byte_source import ByteSource, stem
from wsitool.slides.readers.channels import rgb_channels
from wsitool.slides.readers.codecs import DECODE_ERRORS
from wsitool.slides.readers.resolution import length_um, number, resolve_mpp, square_mpp
from wsitool.slides.readers.source import fingerprint
from wsitool.slides.readers.tiles import TiledSlide, TileLevel
from wsitool.slides.slide import NOT_SQUARE, Level, SlideInfo

__all__ = ["open_czi"]

_MAGIC = b"ZISRAWFILE"
_CZI_ERRORS = (OSError, AttributeError, *DECODE_ERRORS)
_TILE = 1024
_WHITE = (1.0, 1.0, 1.0)
_RGB = ("Bgr24", "Bgr48")
_STACKS = {"Z": "focal planes", "T": "points of time", "R": "rotations", "I": "illuminations", "V": "views"}


class _CziLevel:
    """The file's pixels at 1 / `step` of its full resolution; see `TileLevel`."""

    shrinks: tuple[int, ...] = ()
    passthrough = False
    tile_width = tile_height = _TILE

    def __init__(self, document: _Document, step: int, channels: tuple[int, ...]) -> None:
        self._document, self._step, self._channels = document, step, channels
        self.width, self.height = document.width // step, document.height // step

    def decode(self, column: int, row: int, *, shrink: int = 1) -> NDArray[np.uint8]:
        """See `TileLevel.decode`."""
        left, top = column * _TILE, row * _TILE
        size = min(_TILE, self.width - left), min(_TILE, self.height - top)
        try:
            if self._channels:
                planes = [self._document.read(left, top, size, self._step, c) for c in self._channels]
                return np.stack([plane[..., 0] for plane in planes], axis=-1)
            pixels = self._document.read(left, top, size, self._step, 0)
        except _CZI_ERRORS as error:
            raise RegionReadError(
                f"tile column {column}, row {row} at 1/{self._step} cannot be read: "
                f"{str(error) or type(error).__name__}"
            ) from error
        if pixels.shape[2] == 1:
            return np.repeat(pixels, 3, axis=2)
        return np.ascontiguousarray(pixels[..., ::-1])  # stored as blue, green, red

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        """See `TileLevel.prefetch`."""

    def jpeg(self, column: int, row: int) -> bytes:
        """See `TileLevel.jpeg`."""
        raise RegionReadError("tiles of CZI files are put together of several")


class _Document:
    """An open file; its reads take turns, as the library promises nothing about threads."""

    def __init__(self, document: Any) -> None:
        self._document, self._lock, self._closed = document, threading.Lock(), False
        bounds = document.total_bounding_rectangle
        self._x, self._y, self.width, self.height = bounds.x, bounds.y, bounds.w, bounds.h
        box = document.total_bounding_box
        self.counts = {axis: stop - start for axis, (start, stop) in box.items() if axis not in "XY"}
        self.pixel_types = set(document.pixel_types.values())
        self.xml = str(document.raw_metadata)

    def read(self, left: int, top: int, size: tuple[int, int], step: int, channel: int) -> NDArray[np.uint8]:
        """(h, w, 1) or (h, w, 3) uint8 of one channel from (left, top) on, in pixels of `step`."""
        roi = (self._x + left * step, self._y + top * step, size[0] * step, size[1] * step)
        with self._lock:
            pixels = self._document.read(
                roi=roi, plane={"C": channel}, zoom=1 / step, background_pixel=_WHITE
            )
        if pixels.shape[:2] != size[::-1]:
            raise ValueError(f"{pixels.shape[1]}x{pixels.shape[0]} pixels came of {size[0]}x{size[1]}")
        return np.asarray(pixels >> 8 if pixels.dtype == np.uint16 else pixels, np.uint8)

    def steps(self) -> list[int]:
        """By how much the file's own levels are smaller than its full resolution: 1, 2, 4, ..."""
        steps = {1}

        def note(_: int, block: Any) -> bool:
            steps.add(max(1, round(block.logicalRect.w / max(1, block.physicalSize.w))))
            return True

        self._document.enumerate_subblocks(note)
        return sorted(step for step in steps if min(self.width, self.height) // step > 0)

    def close(self) -> None:
        with self._lock:
            # The library refuses a second time.
            if not self._closed:
                self._closed = True
                self._document.close()


class _CziSlide(TiledSlide):
    def __init__(
        self, info: SlideInfo, levels: tuple[TileLevel, ...], source: ByteSource, document: _Document
    ) -> None:
        super().__init__(info, levels, source)
        self._document = document

    def close(self) -> None:
        super().close()
        self._document.close()


def open_czi(
    source: ByteSource, *, default_mpp: float | None = None, channels: tuple[int, ...] = ()
) -> TiledSlide:
    """Open a CZI file; its levels are those for which it has pixels of its own.

    Samples of 16 bits become those of 8 by their high byte; where no tile lies the slide is white. Raises
    UnsupportedSlideError for another file, or without the package pylibCZIrw; RefusedSlideError for stacks.
    """
    if not source.read(0, len(_MAGIC)) == _MAGIC:
        raise UnsupportedSlideError(f"'{source.name}' is no CZI file.")
    if is_url(source.path):
        raise UnsupportedSlideError("CZI files are read from local files only.")
    try:
        from pylibCZIrw.czi import CziReader
    except ImportError as error:
        raise UnsupportedSlideError("CZI files need another package: pip install 'wsitool[czi]'.") from error
    try:
        document = _Document(CziReader(source.path))
    except _CZI_ERRORS as error:
        raise UnsupportedSlideError(f"'{source.name}' is a damaged CZI file: {error}.") from error
    try:
        channels = _channels(document, channels, source.name)
        levels = tuple(_CziLevel(document, step, channels) for step in document.steps())
        info = _info(source, document, levels, default_mpp)
    except BaseException:
        document.close()
        raise
    return _CziSlide(info, levels, source, document)


def _channels(document: _Document, asked: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The channels that are red, green and blue; () where the one there is has colors, or is gray."""
    check_limit(f"Pixels of a level of '{name}'", document.width * document.height, MAX_LEVEL_PIXELS)
    stack = [f"{document.counts[a]} {words}" for a, words in _STACKS.items() if document.counts.get(a, 1) > 1]
    if stack:
        raise RefusedSlideError(f"'{name}' holds {' and '.join(stack)}: save the picture you mean by itself.")
    if unread := document.pixel_types - {*_RGB, "Gray8", "Gray16"}:
        raise RefusedSlideError(
            f"'{name}' has samples of kind {', '.join(sorted(unread))}, which are not read."
        )
    count = document.counts.get("C", 1)
    if count == 1 and not asked:
        return ()
    if document.pixel_types & {*_RGB}:
        raise RefusedSlideError(
            f"'{name}' has {count} channels that are pictures in color: save one by itself."
        )
    return rgb_channels(name, count, asked, is_rgb=False)


def _info(
    source: ByteSource, document: _Document, levels: tuple[_CziLevel, ...], default_mpp: float | None
) -> SlideInfo:
    root = _xml(document.xml)
    stated, sides = square_mpp(*(_side(root, axis) for axis in "XY"))
    power = None if root is None else number(root.findtext(".//{*}Objective/{*}NominalMagnification"))
    mpp, mpp_source = resolve_mpp(stated, None if sides else power, default_mpp)
    return SlideInfo(
        path=source.path,
        name=stem(source.name),
        reader="czi",
        format="Zeiss CZI",
        levels=tuple(
            Level(width=level.width, height=level.height, downsample=document.width / level.width)
            for level in levels
        ),
        mpp=mpp,
        mpp_source=mpp_source,
        objective_power=power,
        fingerprint=fingerprint(source),
        properties={NOT_SQUARE: sides} if sides else {},
    )


def _xml(text: str) -> Element | None:
    try:
        root: Element = fromstring(text)
    except (ParseError, DefusedXmlException, ValueError):
        return None
    return root


def _side(root: Element | None, axis: str) -> float | None:
    """The side of a pixel in um; the file states metres."""
    for distance in () if root is None else root.iterfind(".//{*}Scaling/{*}Items/{*}Distance"):
        if distance.get("Id") == axis:
            return length_um(number(distance.findtext("{*}Value")), "m")
    return None
