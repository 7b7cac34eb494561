"""Reader over OpenSlide, for every format the direct TIFF reader leaves alone (MRXS, NDPI, DICOM, ...)."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import ImageCms

from wsitool.base.limits import MAX_LEVEL_PIXELS, check_limit
from wsitool.base.urls import is_url
from wsitool.errors import RefusedSlideError, RegionReadError, SlideError, UnsupportedSlideError
from wsitool.slides.readers.byte_source import ByteSource, stem
from wsitool.slides.readers.dicom_frames import FrameLevel, frame_levels
from wsitool.slides.readers.directories import read_directories
from wsitool.slides.readers.folders import MIRAX_DATA, is_dicom, series_files
from wsitool.slides.readers.layout import pixel_layout
from wsitool.slides.readers.resolution import resolve_mpp, square_mpp
from wsitool.slides.readers.source import file_state, fingerprint
from wsitool.slides.readers.tiff import open_tiff
from wsitool.slides.readers.tiles import TiledSlide, TileLevel
from wsitool.slides.slide import NOT_SQUARE, Level, SlideInfo

__all__ = [
    "OpenSlideSlide",
    "RegionHandles",
    "open_openslide",
    "region_levels",
    "slide_info",
    "stated_mpp",
]

RgbArray = NDArray[np.uint8]
_TILE = 512
_LARGEST_NATIVE_TILE = 1024
_OPACITY = np.array([0, 0, 0, 255], np.uint8).view(np.uint32)[0]
_NO_INTERPOLATION = 0.0019
_REACH, _MOST_PIXELS_FOR_EXACT = 1024, 2**21  # an exact read costs at most eight plain ones
_COMPANIONS = {
    ".mrxs": MIRAX_DATA,
    ".vms": (".jpg", ".opt"),
    ".vmu": (".ngr", ".opt"),
}
_PLAIN_TIFFS = ("generic-tiff", "aperio", "philips-tiff")
_OWN_ERRORS = (openslide.OpenSlideError, OSError, ValueError)


class RegionHandles(Protocol):
    """What reads rectangles of one slide, from any thread."""

    def read(self, x0: int, y0: int, level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """(h, w, 4) RGBA of `size` pixels of `level` from level-0 (x0, y0)."""
        ...

    def close(self) -> None: ...


class _Handles:
    """One OpenSlide handle per thread, all sharing a cache.

    OpenSlide's error state is sticky: after one bad read every later one fails, so a handle that raised is
    dropped and a new one opened; with a handle per thread no other reader notices.
    """

    def __init__(self, path: Path, first: openslide.OpenSlide) -> None:
        self._path = path
        width = first.dimensions[0]
        # One row of 512-px BGRA tiles over the slide, so that the next row of patches finds them.
        self._cache = openslide.OpenSlideCache(min(512, max(64, width * _TILE * 4 >> 20)) << 20)
        self._local = threading.local()
        self._all: list[openslide.OpenSlide] = []
        self._lock = threading.Lock()
        self._adopt(first)

    def _adopt(self, handle: openslide.OpenSlide) -> openslide.OpenSlide:
        with contextlib.suppress(openslide.OpenSlideVersionError):
            handle.set_cache(self._cache)
        self._local.handle = handle
        with self._lock:
            self._all.append(handle)
        return handle

    def read(self, x0: int, y0: int, level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """(h, w, 4) RGBA; raises one of OpenSlide's errors and leaves a usable state."""
        handle = getattr(self._local, "handle", None) or self._adopt(openslide.OpenSlide(self._path))
        try:
            return np.asarray(handle.read_region((x0, y0), level, size))
        except _OWN_ERRORS:
            self._local.handle = None
            with self._lock:
                self._all.remove(handle)
            handle.close()
            raise

    def close(self) -> None:
        with self._lock:
            for handle in self._all:
                handle.close()
            self._all.clear()


class _OpenSlideLevel:
    shrinks: tuple[int, ...] = ()
    passthrough = False

    def __init__(
        self,
        handles: RegionHandles,
        index: int,
        level: Level,
        tile: tuple[int, int],
        witness: TileLevel | None,
    ) -> None:
        self._handles, self._index, self._witness = handles, index, witness
        self._sound: set[tuple[int, int]] = set()
        self.width, self.height = level.width, level.height
        self.tile_width, self.tile_height = tile
        self._scale = level.downsample

    def decode(self, column: int, row: int, *, shrink: int = 1) -> RgbArray:
        x, y = column * self.tile_width, row * self.tile_height
        width, height = min(self.tile_width, self.width - x), min(self.tile_height, self.height - y)
        if self._witness is not None:
            self._require(self._witness, x, y, width, height)
        left, top = _exact_start(x, self._scale), _exact_start(y, self._scale)
        area = (x - left + width) * (y - top + height)
        if (left, top) != (x, y) and area <= max(_MOST_PIXELS_FOR_EXACT, width * height):
            # A bad tile beside this one must not cost it.
            with contextlib.suppress(RegionReadError):
                return self._read(left, top, (x - left + width, y - top + height))[y - top :, x - left :]
        return self._read(x, y, (width, height))

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        pass

    def jpeg(self, column: int, row: int) -> bytes:
        raise RegionReadError("this reader gives no JPEG tiles")

    def _require(self, tiles: TileLevel, x: int, y: int, width: int, height: int) -> None:
        """RegionReadError where one of the file's own tiles below a rectangle of this level is damaged."""
        for row in range(y // tiles.tile_height, -(-(y + height) // tiles.tile_height)):
            for column in range(x // tiles.tile_width, -(-(x + width) // tiles.tile_width)):
                if (column, row) not in self._sound:  # a strip lies below many rectangles
                    tiles.decode(column, row)
                    self._sound.add((column, row))

    def _read(self, x: int, y: int, size: tuple[int, int]) -> RgbArray:
        """Pixels from (x, y) of this level on."""
        x0, y0 = round(x * self._scale), round(y * self._scale)
        try:
            rgba = self._handles.read(x0, y0, self._index, size)
        except _OWN_ERRORS as error:
            where = f"{size[0]}x{size[1]} pixels at ({x0}, {y0}) of level {self._index}"
            raise RegionReadError(f"{where} cannot be read: {error}") from error
        return _on_white(rgba)


def _on_white(rgba: NDArray[np.uint8]) -> RgbArray:
    """The colors (h, w, 3) of contiguous (h, w, 4) pixels; those without any opacity are white."""
    rgb = np.empty((*rgba.shape[:2], 3), np.uint8)
    # Color by color, and opacity by whole pixels: at a fifth of the cost of one strided copy and comparison.
    for color in range(3):
        rgb[..., color] = rgba[..., color]
    if np.bitwise_and.reduce(rgba.view(np.uint32), axis=None) & _OPACITY != _OPACITY:
        rgb[rgba[..., 3] == 0] = 255
    return rgb


def _exact_start(start: int, scale: float) -> int:
    """The nearest level pixel up to `place` that whole level-0 pixels reach; `place` where none is near.

    OpenSlide takes level-0 coordinates only and interpolates where these fall between pixels of the level, so
    that a level of downsample 2.0025 comes out blurred by up to a quarter of a pixel. Cairo's interpolation
    has 7 bits an axis, so below 1/512 of a pixel there is none.
    """
    if scale == int(scale):
        return start
    places = np.arange(start, max(-1, start - _REACH), -1)
    off = np.abs(np.rint(places * scale) / scale - places)
    fitting = np.flatnonzero(off < _NO_INTERPOLATION)
    return int(places[fitting[0]]) if len(fitting) else start


class OpenSlideSlide(TiledSlide):
    """An open slide whose pixels come by rectangle; those the library has none for are white."""

    def __init__(
        self, info: SlideInfo, levels: tuple[TileLevel, ...], source: ByteSource, handles: RegionHandles
    ) -> None:
        super().__init__(info, levels, source)
        self._handles = handles
        self._frames = [level for level in levels if isinstance(level, FrameLevel)]
        self._file = Path(source.path)
        self._companions = _companions(self._file)

    def check_unchanged(self) -> None:
        super().check_unchanged()
        if self._companions.items() - _companions(self._file).items():
            raise SlideError(
                f"The files beside '{self.info.path}' changed while it was read, so its patches would be a "
                "mix: run the same command again when nothing writes to them."
            )

    def close(self) -> None:
        super().close()
        self._handles.close()
        for level in self._frames:
            level.close()


def _properties(handle: openslide.OpenSlide) -> dict[str, str]:
    """All properties but those whose names are no UTF-8, which it lists and then does not find."""
    properties: dict[str, str] = {}
    for name in handle.properties:
        with contextlib.suppress(KeyError):
            properties[name] = handle.properties[name]
    return properties


def _icc_profile(handle: openslide.OpenSlide) -> bytes:
    try:
        profile = handle.color_profile
    except (*_OWN_ERRORS, ImageCms.PyCMSError):
        return b""
    return b"" if profile is None else bytes(profile.tobytes())


def _check_plain_tiff(source: ByteSource) -> None:
    """Raise UnsupportedSlideError for the plain TIFFs of which libtiff shows damaged tiles as if whole."""
    if openslide.OpenSlide.detect_format(source.path) not in _PLAIN_TIFFS:
        return
    layouts = [pixel_layout(one) for one in read_directories(source) if one.is_tiled]
    if any(layout.bits != 8 or layout.sample_format != 1 or layout.planes > 1 for layout in layouts):
        raise UnsupportedSlideError(
            "OpenSlide does not notice damage to planes stored apart or to samples other than of 8 bits."
        )


def open_openslide(source: ByteSource, *, default_mpp: float | None = None) -> OpenSlideSlide:
    """Open a slide through OpenSlide; UnsupportedSlideError if it does not know the format or refuses it.

    RefusedSlideError where a level is larger than `limits` allow, or a plain TIFF contradicts itself.
    """
    path = source.path
    if is_url(path):
        raise UnsupportedSlideError("OpenSlide reads local files only.")
    try:
        _check_plain_tiff(source)
        handle = openslide.OpenSlide(path)
    except _OWN_ERRORS as error:
        unknown = isinstance(error, openslide.OpenSlideUnsupportedFormatError)
        if path.lower().endswith(".mrxs"):  # a picture of the label, which must not be taken for the slide
            reason = "it is not there" if unknown else str(error)
            raise RefusedSlideError(
                f"'{source.name}' is read with the folder '{stem(source.name)}' beside it, and OpenSlide "
                f"refuses them ({reason}): copy both, whole."
            ) from error
        reason = "OpenSlide does not know this format" if unknown else f"OpenSlide refuses it: {error}"
        raise UnsupportedSlideError(f"{reason}.") from error
    properties = _properties(handle)
    levels = tuple(
        Level(width=width, height=height, downsample=downsample)
        for (width, height), downsample in zip(handle.level_dimensions, handle.level_downsamples, strict=True)
    )
    handles = _Handles(Path(path), handle)
    try:
        info = slide_info(source, properties, levels, default_mpp, reader="openslide")
        info = replace(info, icc_profile=_icc_profile(handle))
    except SlideError:
        handles.close()
        raise
    tiles: tuple[TileLevel, ...] = region_levels(handles, source, properties, levels, reader="openslide")
    if info.format == "dicom":
        tiles = _decoded_here(Path(path), properties, tiles)
    return OpenSlideSlide(info, tiles, source, handles)


def _decoded_here(
    path: Path, properties: dict[str, str], levels: tuple[TileLevel, ...]
) -> tuple[TileLevel, ...]:
    """DICOM levels by their own frames, where these are of a plain kind: each is then decoded once."""
    sizes = [(level.width, level.height) for level in levels]
    files = sorted(file for file in path.parent.iterdir() if file.is_file())
    frames = frame_levels(files, properties.get("dicom.SeriesInstanceUID", ""), sizes)
    return tuple(own or level for own, level in zip(frames, levels, strict=True))


def stated_mpp(path: str) -> float | None:
    """What OpenSlide says a slide's mpp is, of a level-0 pixel that is square; None where it does not."""
    if is_url(path):
        return None
    try:
        with openslide.OpenSlide(path) as handle:
            sides = [_float(handle.properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    except _OWN_ERRORS:
        return None
    return resolve_mpp(square_mpp(*sides)[0], None, None)[0]


def _companions(path: Path) -> dict[str, tuple[int, ...]]:
    """State of the files a slide of several files has beside the one that names it."""
    if is_dicom(path):
        return {file.name: file_state(file.stat()) for file in series_files(path.parent)}
    suffix = path.suffix.lower()
    folder = path.with_suffix("") if suffix == ".mrxs" else path.parent
    kinds = _COMPANIONS.get(suffix)
    if kinds is None or not folder.is_dir():
        return {}
    files = [entry for entry in os.scandir(folder) if entry.name.lower().endswith(kinds) and entry.is_file()]
    return {entry.name: file_state(entry.stat()) for entry in files}


def region_levels(
    handles: RegionHandles,
    source: ByteSource,
    properties: dict[str, str],
    levels: tuple[Level, ...],
    *,
    reader: str,
) -> tuple[_OpenSlideLevel, ...]:
    """The levels of a slide read by rectangle, cut into the file's own tiles where those are sensible.

    libtiff and tifffile show what they can of a damaged tile: of a TIFF that the direct reader knows, too, a
    rectangle is read only where that one decodes every tile below it, which costs a second decode.
    """
    sizes = [_tile_size(properties, index, reader) for index in range(len(levels))]
    try:
        direct = open_tiff(source, strips=True)
    except UnsupportedSlideError:
        witnesses: dict[tuple[int, int], TileLevel] = {}
    else:
        tiles = [direct.tiles(index) for index in range(len(direct.info.levels))]
        witnesses = {(one.width, one.height): one for one in tiles}
    return tuple(
        _OpenSlideLevel(handles, i, level, sizes[i], witnesses.get((level.width, level.height)))
        for i, level in enumerate(levels)
    )


def slide_info(
    source: ByteSource,
    properties: dict[str, str],
    levels: tuple[Level, ...],
    default_mpp: float | None,
    *,
    reader: str,
) -> SlideInfo:
    """Facts from the properties of `reader`, whose names start with its own ("openslide.mpp-x").

    Raises RefusedSlideError where a level is larger than `limits` allow.
    """
    for level in levels:
        size = f"{level.width} x {level.height}"
        check_limit(
            f"Pixels of a level of '{source.name}' ({size})", level.width * level.height, MAX_LEVEL_PIXELS
        )
    power = _float(properties.get(f"{reader}.objective-power"))
    stated, sides = square_mpp(*(_float(properties.get(f"{reader}.mpp-{axis}")) for axis in "xy"))
    mpp, mpp_source = resolve_mpp(stated, None if sides else power, default_mpp)
    return SlideInfo(
        path=source.path,
        name=stem(source.name),
        reader=reader,
        format=properties.get(f"{reader}.vendor", "unknown"),
        levels=levels,
        mpp=mpp,
        mpp_source=mpp_source,
        objective_power=power,
        fingerprint=fingerprint(source),
        properties=properties | ({NOT_SQUARE: sides} if sides else {}),
    )


def _tile_size(properties: dict[str, str], level: int, reader: str) -> tuple[int, int]:
    """The file's own tile size where it is sensible: then a damaged tile costs no patch beside its own."""
    sides = [_float(properties.get(f"{reader}.level[{level}].tile-{side}")) for side in ("width", "height")]
    if all(side and 64 <= side <= _LARGEST_NATIVE_TILE for side in sides):
        return int(sides[0] or 0), int(sides[1] or 0)
    return _TILE, _TILE


def _float(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value > 0 else None
