"""The oracle of pixels: what strict decoders, other than the program's own, see in a damaged file.

A file that contradicts itself (a tile longer or shorter than its tags say, three bit depths for one sample)
has no pixels there: nothing but the picture it was before the damage is right.
"""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import tifffile
from numpy.typing import NDArray

__all__ = ["Truth"]

Rgb = NDArray[np.uint8]
_MAX_PIXELS = 4_000_000
_PATIENCE_SECONDS = 20
_RGB, _YCBCR, _PALETTE = 2, 6, 3
_LOSSLESS = {1, 5, 8, 32946}


@dataclass(frozen=True, kw_only=True)
class _View:
    """Pixels (H, W, 3) as one decoder sees them; False in `known` (H, W) where it sees none."""

    pixels: Rgb
    known: NDArray[np.bool_]

    def agrees(self, patch: Rgb, x: int, y: int) -> bool:
        height, width = patch.shape[:2]
        known = self.known[y : y + height, x : x + width]
        same = self.pixels[y : y + height, x : x + width]
        return known.shape == (height, width) and bool(known.all()) and np.array_equal(same, patch)


class Truth:
    """What may be stored of the file at `path`, which held the pixels `original` before it was damaged."""

    def __init__(self, path: Path, original: Rgb) -> None:
        self._path, self._original = path, original

    def allows(self, patch: Rgb, x: int, y: int) -> bool:
        """Whether `patch` is what lies at level-0 x, y: in the original, or to a strict decoder."""
        height, width = patch.shape[:2]
        if np.array_equal(self._original[y : y + height, x : x + width], patch):
            return True
        return any(view.agrees(patch, x, y) for view in self._views)

    @cached_property
    def _views(self) -> Sequence[_View | _OpenSlideView]:
        with _patience():
            if self._path.suffix in (".svs", ".tif"):
                return _tiff_views(self._path)
            return _picture_views(self._path)
        return []


@contextmanager
def _patience() -> Iterator[None]:
    """End what a decoder does for ever on a damaged file: then it sees nothing."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_PATIENCE_SECONDS)
    try:
        yield
    except TimeoutError:
        pass
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _tiff_views(path: Path) -> list[_View | _OpenSlideView]:
    pages: list[_View] = []
    parsed = False
    try:
        with tifffile.TiffFile(path) as tiff:
            for page in list(tiff.pages)[:6]:
                parsed = True
                view = _page_view(page)
                if view is not None:
                    pages.append(view)
    except Exception:  # noqa: BLE001 - tifffile reports damage through whatever fails first
        parsed = False
    views: list[_View | _OpenSlideView] = [*pages]
    if pages or not parsed:
        views.append(_OpenSlideView(path, pages[0].known if pages else None))
    return views


def _page_view(page: Any) -> _View | None:
    """The page through tifffile, where its tags agree with each other and with every tile."""
    tags = {code: page.tags.get(code) for code in (256, 257, 258, 262, 277)}
    if any(tag is None for tag in tags.values()):
        return None
    samples, bits = tags[277].value, tags[258].value
    bits = bits if isinstance(bits, tuple) else (bits,)
    colors = 3 if page.photometric in (_RGB, _YCBCR) else 1
    if samples != colors or len(bits) != samples or set(bits) - {8, 16} or len(set(bits)) != 1:
        return None
    height, width = page.imagelength, page.imagewidth
    if not 0 < height * width <= _MAX_PIXELS or page.imagedepth != 1:
        return None
    canvas = np.zeros((height, width, 3), np.uint8)
    known = np.zeros((samples if page.planarconfig == 2 else 1, height, width), bool)
    expected = _segment_number(page, samples)
    if not expected == len(page.dataoffsets) == len(page.databytecounts):
        return None
    for index in range(expected):
        _paint(page, index, canvas, known)
    return _View(pixels=canvas, known=known.all(axis=0))


def _segment_number(page: Any, samples: int) -> int:
    tall = page.tilelength if page.is_tiled else page.rowsperstrip
    wide = page.tilewidth if page.is_tiled else page.imagewidth
    if not tall or not wide:
        return -1
    planes = samples if page.planarconfig == 2 else 1
    return int(-(-page.imagelength // tall) * -(-page.imagewidth // wide) * planes)


def _paint(page: Any, index: int, canvas: Rgb, known: NDArray[np.bool_]) -> None:
    file = page.parent.filehandle
    if page.databytecounts[index] == 0 and page.is_tiled and page.planarconfig == 1 and not page.is_svs:
        # What a sparse pyramid leaves out is blank: white, as on glass.
        row, column = divmod(index, -(-page.imagewidth // page.tilewidth))
        y, x = row * page.tilelength, column * page.tilewidth
        canvas[y : y + page.tilelength, x : x + page.tilewidth] = 255
        known[0, y : y + page.tilelength, x : x + page.tilewidth] = True
        return
    try:
        file.seek(page.dataoffsets[index])
        data = file.read(page.databytecounts[index])
        if len(data) < page.databytecounts[index] or not _has_its_size(page, index, data):
            return
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        segment, place, shape = _decoded(page, index, data, tables)
    except TimeoutError:
        raise
    except Exception:  # noqa: BLE001 - as above
        return
    if segment is None:
        return
    plane, _, y, x, _ = place
    part = segment[0, : shape[1], : shape[2]]
    part = (part >> 8).astype(np.uint8) if part.dtype == np.uint16 else part
    if page.photometric == 0:
        part = 255 - part
    height, width = canvas[y : y + part.shape[0], x : x + part.shape[1]].shape[:2]
    target = canvas[y : y + height, x : x + width]
    target[..., plane : plane + 1 if page.planarconfig == 2 else None] = part[:height, :width]
    known[plane if page.planarconfig == 2 else 0, y : y + height, x : x + width] = True


def _decoded(page: Any, index: int, data: bytes, tables: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What tifffile makes of the tile or strip; of a last strip that was filled up, its own rows."""
    try:
        return page.decode(data, index, **tables)  # type: ignore[no-any-return]
    except Exception:
        strips = 0 if page.is_tiled else -(-page.imagelength // page.rowsperstrip)
        if not strips or (index + 1) % strips:
            raise
    segment, place, shape = page.decode(data, index + 1 - strips, **tables)
    top = (strips - 1) * page.rowsperstrip
    return segment, (*place[:2], top, *place[3:]), (shape[0], page.imagelength - top, *shape[2:])


def _has_its_size(page: Any, index: int, data: bytes) -> bool:
    """Whether a tile or strip holds as many pixels as the tags say; the last strip may be filled up."""
    samples = 1 if page.planarconfig == 2 else page.samplesperpixel
    if page.is_tiled:
        height, width = page.tilelength, page.tilewidth
    else:
        strips = -(-page.imagelength // page.rowsperstrip)
        height = min(page.rowsperstrip, page.imagelength - index % strips * page.rowsperstrip)
        width = page.imagewidth
    heights = (height, page.tilelength if page.is_tiled else page.rowsperstrip)
    row_bytes = width * samples * page.bitspersample // 8
    if page.compression in _LOSSLESS:
        plain = {1: bytes, 5: imagecodecs.lzw_decode}.get(int(page.compression), imagecodecs.zlib_decode)
        return len(plain(data)) in [row_bytes * rows for rows in heights]
    if page.compression == 7:
        return _jpeg_size(data) in [(rows, width) for rows in heights]
    return bool(imagecodecs.jpeg2k_decode(data).shape[:2] == (height, width))


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        if marker in (0xC0, 0xC1, 0xC2):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height, width
        at += 2 + length
    return None


class _OpenSlideView:
    """Level 0 through OpenSlide, where tifffile's strict view has pixels too or cannot open the file.

    Tiles of no bytes it calls blank, in an SVS too.
    """

    def __init__(self, path: Path, strict: NDArray[np.bool_] | None) -> None:
        self._path, self._strict = path, strict

    def agrees(self, patch: Rgb, x: int, y: int) -> bool:
        height, width = patch.shape[:2]
        try:
            with openslide.OpenSlide(self._path) as slide:  # after one error a handle is of no use
                rgba = np.asarray(slide.read_region((x, y), 0, (width, height)))
        except (openslide.OpenSlideError, OSError):
            return False
        blank = rgba[..., 3] == 0
        if self._strict is not None:
            known = self._strict[y : y + height, x : x + width]
            if known.shape != blank.shape or not (known | blank).all():
                return False
        expected = np.where(blank[..., None], 255, rgba[..., :3])
        return bool((blank | (rgba[..., 3] == 255)).all()) and np.array_equal(expected, patch)


def _picture_views(path: Path) -> list[_View]:
    data = path.read_bytes()
    try:
        if data[:2] == b"BM":
            start, width, height = struct.unpack("<I4xii", data[10:26])
            if len(data) != start + -(-width * 3 // 4) * 4 * abs(height):
                return []  # more or fewer bytes than pixels
        pixels = imagecodecs.imread(data) if data[:2] != b"BM" else imagecodecs.bmp_decode(data)
    except TimeoutError:
        raise
    except Exception:  # noqa: BLE001 - every codec has errors of its own
        return []
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.size > 4 * _MAX_PIXELS:
        return []
    rgb = np.ascontiguousarray(pixels[..., :3])
    return [_View(pixels=rgb, known=np.ones(rgb.shape[:2], bool))]
