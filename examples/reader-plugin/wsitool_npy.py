"""Slides as NumPy writes them: the levels of a pyramid, one .npy array after the other in one file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from wsitool import ByteSource, Level, SlideInfo, SlideReader, TiledSlide, fingerprint, resolve_mpp
from wsitool.errors import RefusedSlideError, RegionReadError, UnsupportedSlideError

__all__ = ["READER", "open_npy", "write_npy"]

READER = SlideReader(
    name="npy",
    open="wsitool_npy:open_npy",
    reason="it is a NumPy pyramid",
    magic=(npy.MAGIC_PREFIX,),
    suffixes=(".npy",),
)
_ROWS = 64  # of a tile, which is a band as wide as the level: one read of the file
_MOST_LEVELS = 32


class _NpyLevel:
    """One array (height, width, 3) uint8 that begins at byte `offset` of the file."""

    shrinks: tuple[int, ...] = ()
    passthrough = False

    def __init__(self, source: ByteSource, offset: int, shape: tuple[int, ...]) -> None:
        self._source, self.offset = source, offset
        self.height, self.width = shape[:2]
        self.tile_width, self.tile_height = self.width, _ROWS

    def decode(self, column: int, row: int, *, shrink: int = 1) -> NDArray[np.uint8]:
        first, stop = row * _ROWS, min((row + 1) * _ROWS, self.height)
        row_bytes = self.width * 3
        try:
            data = self._source.read(self.offset + first * row_bytes, (stop - first) * row_bytes)
        except OSError as error:
            raise RegionReadError(f"rows {first} to {stop} cannot be read: {error}") from error
        if len(data) < (stop - first) * row_bytes:
            raise RegionReadError(f"rows {first} to {stop} cannot be read: the file ends before them")
        return np.frombuffer(data, np.uint8).reshape(stop - first, self.width, 3)

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        row_bytes = self.width * 3
        self._source.prefetch((self.offset + row * _ROWS * row_bytes, _ROWS * row_bytes) for _, row in places)

    def jpeg(self, column: int, row: int) -> bytes:
        raise RegionReadError("NumPy arrays have no JPEG tiles")


def open_npy(source: ByteSource, *, default_mpp: float | None = None) -> TiledSlide:
    """Open a file of arrays (h, w, 3) uint8, the finest first, as `write_npy` writes it.

    Raises UnsupportedSlideError for arrays of another kind, RefusedSlideError for a file that is cut off.
    """
    levels = _levels(source)
    width, height = levels[0].width, levels[0].height
    mpp, mpp_source = resolve_mpp(None, None, default_mpp)  # .npy states no resolution
    info = SlideInfo(
        path=source.path,
        name=source.name.rsplit(".", 1)[0],
        reader=READER.name,
        format=f"NumPy pyramid of {len(levels)} levels",
        levels=tuple(
            Level(
                width=level.width,
                height=level.height,
                downsample=(width / level.width + height / level.height) / 2,
            )
            for level in levels
        ),
        mpp=mpp,
        mpp_source=mpp_source,
        objective_power=None,
        fingerprint=fingerprint(source),
    )
    return TiledSlide(info, levels, source)


def _levels(source: ByteSource) -> tuple[_NpyLevel, ...]:
    levels: list[_NpyLevel] = []
    offset = 0
    with source.stream() as file:
        while offset < source.size and len(levels) < _MOST_LEVELS:
            file.seek(offset)
            shape, offset = _header(file, source.name)
            level = _NpyLevel(source, offset, shape)
            offset += level.width * level.height * 3
            if offset > source.size:
                raise RefusedSlideError(
                    f"'{source.name}' is cut off within level {len(levels)}: get it anew."
                )
            if levels and not (level.width < levels[-1].width and level.height < levels[-1].height):
                raise RefusedSlideError(
                    f"Level {len(levels)} of '{source.name}' is not smaller than the last."
                )
            levels.append(level)
    if not levels:
        raise UnsupportedSlideError(f"'{source.name}' is empty.")
    return tuple(levels)


def _header(file: object, name: str) -> tuple[tuple[int, ...], int]:
    """The shape that an array's header states, and the byte its data begin at."""
    try:
        version = npy.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version} where (1, 0) is expected")
        shape, is_fortran, dtype = npy.read_array_header_1_0(file)
    except (ValueError, TypeError, SyntaxError, KeyError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UnsupportedSlideError(f"'{name}' holds no NumPy array: {reason}.") from error
    if dtype != np.uint8 or is_fortran or len(shape) != 3 or shape[2] != 3 or min(shape) < 1:
        raise UnsupportedSlideError(
            f"'{name}' holds {dtype} of shape {shape} where (h, w, 3) uint8 is expected."
        )
    return shape, file.tell()  # type: ignore[attr-defined]


def write_npy(path: Path, pixels: NDArray[np.uint8], *, levels: int = 3) -> Path:
    """Write (h, w, 3) uint8 `pixels` and their halves as a pyramid."""
    with path.open("wb") as file:
        for index in range(levels):
            npy.write_array(file, np.ascontiguousarray(pixels[:: 2**index, :: 2**index]), version=(1, 0))
    return path
