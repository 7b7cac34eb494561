"""Tiles of DICOM whole-slide images decoded here, once and in any thread, where the file is of a plain kind.

DICOM PS3.5 (encoding, encapsulated frames) and PS3.3 C.8.12 (whole-slide images). Structure, resolution and
everything of another kind are OpenSlide's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import RegionReadError, UnsupportedSlideError
from wsitool.slides.readers.byte_source import ByteSource
from wsitool.slides.readers.codecs import DECODE_ERRORS, JPEG_SHRINKS, Decoder, JpegDecoder, make_decoder
from wsitool.slides.readers.directories import Directory
from wsitool.slides.readers.layout import PixelLayout
from wsitool.slides.readers.source import open_bytes

__all__ = ["FrameLevel", "frame_levels"]

_PREAMBLE, _MAGIC = 128, b"DICM"
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_PIXELS, _OFFSETS, _LENGTHS = (0x7FE0, 0x0010), (0x7FE0, 0x0001), (0x7FE0, 0x0002)
_SYNTAX, _TYPE, _SERIES, _ORGANIZATION = (2, 0x10), (8, 8), (0x20, 0xE), (0x20, 0x9311)
_SAMPLES, _COLORS, _PLANAR, _FRAMES = (0x28, 2), (0x28, 4), (0x28, 6), (0x28, 8)
_ROWS, _COLUMNS, _BITS = (0x28, 0x10), (0x28, 0x11), (0x28, 0x100)
_WIDTH, _HEIGHT = (0x48, 6), (0x48, 7)
_NUMBERS = {_SAMPLES, _PLANAR, _ROWS, _COLUMNS, _BITS, _WIDTH, _HEIGHT}
_TEXTS = {_SYNTAX, _TYPE, _SERIES, _ORGANIZATION, _COLORS, _FRAMES}
_MOST_TEXT, _DEEPEST = 4096, 32
# Transfer syntax -> the TIFF compression that its frames have, for the colors that decode to RGB by it.
_JPEG, _JPEG2000, _RAW = 7, 33005, 1
_SYNTAXES = {
    "1.2.840.10008.1.2.1": _RAW,
    "1.2.840.10008.1.2.4.50": _JPEG,
    "1.2.840.10008.1.2.4.90": _JPEG2000,
    "1.2.840.10008.1.2.4.91": _JPEG2000,
}
_RGB, _YCBCR = 2, 6
_PHOTOMETRIC = {
    (_RAW, "RGB"): _RGB,
    (_JPEG, "RGB"): _RGB,
    (_JPEG, "YBR_FULL_422"): _YCBCR,
    (_JPEG, "YBR_FULL"): _YCBCR,
    (_JPEG2000, "RGB"): _RGB,
    (_JPEG2000, "YBR_ICT"): _RGB,
    (_JPEG2000, "YBR_RCT"): _RGB,
}


class _OtherKindError(ValueError):
    """Something that OpenSlide may read and this does not."""


@dataclass(frozen=True, kw_only=True)
class _Frames:
    """Where in a file the pixels of a level are: `starts` (F + 1,), of packed frames those of their items."""

    layout: PixelLayout
    is_packed: bool
    starts: NDArray[np.int64]


class FrameLevel:
    """One level whose frames are its tiles, row by row; see `TileLevel`."""

    def __init__(self, source: ByteSource, frames: _Frames, decode: Decoder, index: int) -> None:
        self._source, self._frames, self._decode, self._index = source, frames, decode, index
        layout = frames.layout
        self.width, self.height = layout.width, layout.height
        self.tile_width, self.tile_height = layout.tile_width, layout.tile_height
        self.passthrough = isinstance(decode, JpegDecoder)
        self.shrinks = tuple(
            k for k in JPEG_SHRINKS if self.passthrough and not (self.tile_width % k or self.tile_height % k)
        )

    def decode(self, column: int, row: int, *, shrink: int = 1) -> NDArray[np.uint8]:
        """See `TileLevel.decode`."""
        try:
            return self._decode(self._stored(column, row), row, shrink)
        except (OSError, *DECODE_ERRORS) as error:
            raise self._failure(column, row, error) from error

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        """See `TileLevel.prefetch`."""

    def jpeg(self, column: int, row: int) -> bytes:
        """See `TileLevel.jpeg`."""
        try:
            if not isinstance(self._decode, JpegDecoder):
                raise ValueError("it is not a JPEG tile")
            data = self._stored(column, row)
            if b"\xff\xd9" not in data[-16:]:
                raise ValueError("it has no JPEG end marker")
            return self._decode.stream(data, row)
        except (OSError, *DECODE_ERRORS) as error:
            raise self._failure(column, row, error) from error

    def close(self) -> None:
        """Close the level's file."""
        self._source.close()

    def _stored(self, column: int, row: int) -> bytes:
        """The bytes of one frame, of all its fragments."""
        number = row * self._frames.layout.columns + column
        start, end = self._frames.starts[number : number + 2].tolist()
        data = self._source.read(start, end - start)
        if len(data) < end - start:
            raise ValueError("the file ends before it does")
        if not self._frames.is_packed:
            return data
        fragments = list(_fragments(data))
        return fragments[0] if len(fragments) == 1 else b"".join(fragments)

    def _failure(self, column: int, row: int, error: Exception) -> RegionReadError:
        reason = str(error) or type(error).__name__
        return RegionReadError(
            f"tile column {column}, row {row} of level {self._index} cannot be read: {reason}"
        )


def _fragments(data: bytes) -> Iterator[bytes]:
    """The contents of the items in `data`; ValueError where it is not made of whole items."""
    at = 0
    while at < len(data):
        group, element, length = struct.unpack_from("<HHI", data, at)
        if (group, element) != _ITEM or at + 8 + length > len(data):
            raise ValueError("its fragments are damaged")
        yield data[at + 8 : at + 8 + length]
        at += 8 + length


def frame_levels(paths: Iterable[Path], series: str, sizes: list[tuple[int, int]]) -> list[FrameLevel | None]:
    """The level of each of the `sizes` (width, height) in a series' files; None where OpenSlide must read it.

    So where no file, or more than one, has a level's size, or the one is of another kind than is read here.
    """
    found: dict[tuple[int, int], list[FrameLevel | None]] = {}
    for path in paths:
        try:
            source = open_bytes(path)
        except UnsupportedSlideError:
            continue
        level: FrameLevel | None = None
        try:
            header = _Header(source)
            if header.texts.get(_SERIES) != series or "VOLUME" not in header.texts.get(_TYPE, ""):
                continue
            size = header.number(_WIDTH), header.number(_HEIGHT)
            if size in sizes:
                found.setdefault(size, []).append(None)
                frames = header.frames()
                decode = make_decoder(frames.layout, None)
                if decode is not None:
                    level = FrameLevel(source, frames, decode, sizes.index(size))
                    found[size][-1] = level
        except (_OtherKindError, OSError, *DECODE_ERRORS):
            pass
        finally:
            if level is None:
                source.close()
    levels: list[FrameLevel | None] = []
    for size in sizes:
        several = found.pop(size, [])
        levels.append(several[0] if len(several) == 1 else None)
        for other in several if len(several) > 1 else ():
            if other is not None:
                other.close()
    return levels


class _Header:
    """The elements of one file up to its pixels, of the outermost level only."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.texts: dict[tuple[int, int], str] = {}
        self._numbers: dict[tuple[int, int], int] = {}
        self._tables: dict[tuple[int, int], NDArray[np.int64]] = {}
        self._pixels = (0, 0)
        with source.stream() as stream:
            if stream.read(_PREAMBLE + 4)[_PREAMBLE:] != _MAGIC:
                raise _OtherKindError("no DICOM file")
            while self._element(stream):
                pass

    def number(self, tag: tuple[int, int]) -> int:
        """The value of an element that must be there."""
        if tag not in self._numbers:
            raise _OtherKindError(f"no {tag}")
        return self._numbers[tag]

    def _element(self, stream: BinaryIO) -> bool:
        """Take or pass over the next element; whether there may be another before the pixels."""
        tag, length = _next(stream)
        if tag == _PIXELS:
            self._pixels = stream.tell(), length
            return False
        if length == _UNDEFINED:
            _pass_sequence(stream, 0)
        elif tag in _TEXTS and length <= _MOST_TEXT:
            self.texts[tag] = stream.read(length).decode("ascii", "replace").strip(" \0")
        elif tag in _NUMBERS and length in (2, 4):
            self._numbers[tag] = int.from_bytes(stream.read(length), "little")
        elif tag in (_OFFSETS, _LENGTHS):
            self._tables[tag] = np.frombuffer(stream.read(length), "<i8")
        else:
            stream.seek(length, 1)
        return stream.tell() < self._source.size

    def frames(self) -> _Frames:
        """Where the frames are; _OtherKindError for kinds that are OpenSlide's."""
        compression = _SYNTAXES.get(self.texts.get(_SYNTAX, ""), 0)
        photometric = _PHOTOMETRIC.get((compression, self.texts.get(_COLORS, "")))
        plain = (self.number(_SAMPLES), self.number(_BITS), self._numbers.get(_PLANAR, 0)) == (3, 8, 0)
        if photometric is None or not plain or self.texts.get(_ORGANIZATION) != "TILED_FULL":
            raise _OtherKindError("other samples or places")
        layout = PixelLayout(
            # What decoders know of a TIFF's directory they know here of a frame.
            directory=Directory(source=self._source, byte_order="<", offset=0, entries={}, in_order=True),
            width=self.number(_WIDTH),
            height=self.number(_HEIGHT),
            tile_width=self.number(_COLUMNS),
            tile_height=self.number(_ROWS),
            is_tiled=True,
            bits=8,
            samples=3,
            sample_format=1,
            photometric=photometric,
            compression=compression,
            planar=1,
            fill_order=1,
            predictor=1,
        )
        count = int(self.texts.get(_FRAMES, "1"))
        if min(layout.tile_width, layout.tile_height) < 1 or count != layout.tiles:
            raise _OtherKindError("frames of several focal planes or optical paths")
        start, length = self._pixels
        if compression != _RAW:
            return _Frames(layout=layout, is_packed=True, starts=self._item_starts(start, count))
        frame = layout.tile_width * layout.tile_height * 3
        if length < frame * count:
            raise _OtherKindError("fewer pixels than frames")
        return _Frames(layout=layout, is_packed=False, starts=start + frame * np.arange(count + 1))

    def _item_starts(self, start: int, count: int) -> NDArray[np.int64]:
        """Where each packed frame's first item begins, and where the last frame ends."""
        tag, length = _item(self._source, start)
        first = start + 8 + length
        if tag != _ITEM:
            raise _OtherKindError("no table of offsets")
        if (offsets := self._tables.get(_OFFSETS)) is None and length:
            offsets = np.frombuffer(self._source.read(start + 8, length), "<u4").astype(np.int64)
        if offsets is not None:
            if len(offsets) != count or (np.diff(offsets) <= 0).any() or offsets[0] != 0:
                raise _OtherKindError("a table of other frames")
            places = first + offsets
            end = int(places[-1])
        else:
            places, end = np.zeros(0, np.int64), first
        walked = []
        while (found := _item(self._source, end))[0] == _ITEM:
            walked.append(end)
            end += 8 + found[1]
        if found[0] != _SEQUENCE_END or (offsets is None and len(walked) != count):
            raise _OtherKindError("frames in several fragments, or cut off")
        return np.array([*(places if offsets is not None else walked), end], np.int64)


def _next(stream: BinaryIO) -> tuple[tuple[int, int], int]:
    """Tag and length of the next element of explicit types; delimiters have none."""
    group, element, kind, length = struct.unpack("<HH2sH", stream.read(8))
    if group == _ITEM[0]:
        return (group, element), int(struct.unpack("<I", kind + struct.pack("<H", length))[0])
    if not kind.isalpha() or not kind.isupper():
        raise _OtherKindError("elements without types")
    if kind in _LONG:
        (length,) = struct.unpack("<I", stream.read(4))
    return (group, element), int(length)


def _pass_sequence(stream: BinaryIO, depth: int) -> None:
    """Pass over the items of a sequence of undefined length."""
    if depth > _DEEPEST:
        raise _OtherKindError("sequences within sequences")
    while True:
        tag, length = _next(stream)
        if tag == _SEQUENCE_END:
            return
        if tag != _ITEM:
            raise _OtherKindError("a sequence without items")
        if length != _UNDEFINED:
            stream.seek(length, 1)
            continue
        while (inner := _next(stream))[0] != _ITEM_END:
            if inner[1] == _UNDEFINED:
                _pass_sequence(stream, depth + 1)
            else:
                stream.seek(inner[1], 1)


def _item(source: ByteSource, place: int) -> tuple[tuple[int, int], int]:
    """Tag and length of the item at a place of the file."""
    group, element, length = struct.unpack("<HHI", source.read(place, 8))
    return (group, element), length
