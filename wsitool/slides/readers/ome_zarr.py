"""Reader of OME-Zarr images (NGFF 0.4 and 0.5): metadata by their specification, chunks through zarr.

https://ngff.openmicroscopy.org/0.4 and /0.5. A chunk is a tile, or, where chunks are small, several are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsitool.base.limits import MAX_LEVEL_PIXELS, MAX_TILE_PIXELS, check_limit
from wsitool.base.urls import is_url
from wsitool.errors import RefusedSlideError, RegionReadError, UnsupportedSlideError
from wsitool.slides.readers.byte_source import ByteSource, stem
from wsitool.slides.readers.channels import rgb_channels
from wsitool.slides.readers.codecs import DECODE_ERRORS
from wsitool.slides.readers.folders import SEVERAL_IMAGES, ZARR_METADATA, image_attributes
from wsitool.slides.readers.resolution import length_um, resolve_mpp, square_mpp
from wsitool.slides.readers.source import fingerprint
from wsitool.slides.readers.tiles import TiledSlide, stated_levels
from wsitool.slides.readers.zarr_chunks import LocalChunks, local_chunks
from wsitool.slides.slide import BLANK_TILES, NOT_SQUARE, SlideInfo

__all__ = ["open_ome_zarr"]

_ZARR_ERRORS = (OSError, AttributeError, *DECODE_ERRORS)
_LEAST_TILE = 256
_STACKS = {"z": "focal planes", "t": "points of time"}
_COLORS = ["FF0000", "00FF00", "0000FF"]
_MOST_IMAGES = 100


class _ZarrLevel:
    """One array of a pyramid; see `TileLevel`. `channels` are those of red, green and blue, () for gray."""

    shrinks: tuple[int, ...] = ()
    passthrough = False

    def __init__(
        self,
        array: Any,
        axes: Sequence[str],
        channels: tuple[int, ...],
        index: int,
        chunks: LocalChunks | None,
    ) -> None:
        self._array, self._axes, self._channels, self._index = array, axes, channels, index
        self._chunks = chunks
        self.height, self.width = (int(array.shape[axes.index(axis)]) for axis in "yx")
        tile = [int(array.chunks[axes.index(axis)]) for axis in "yx"]
        self.tile_height, self.tile_width = (-(-_LEAST_TILE // side) * side for side in tile)

    @property
    def left_out(self) -> str:
        """How many chunks have no file, and the value they then have; "" where none, or not known."""
        missing = 0 if self._chunks is None else self._chunks.missing
        value = "" if self._array.fill_value == 255 else f" (of value {self._array.fill_value})"
        return f"{missing:,}{value}" if missing else ""

    def decode(self, column: int, row: int, *, shrink: int = 1) -> NDArray[np.uint8]:
        """See `TileLevel.decode`."""
        y, x = row * self.tile_height, column * self.tile_width
        window = {
            "y": slice(y, min(y + self.tile_height, self.height)),
            "x": slice(x, min(x + self.tile_width, self.width)),
        }
        # A slice of all channels, or one after the other: chunks often hold one each.
        lowest, highest = min(self._channels, default=0), max(self._channels, default=0)
        window["c"] = slice(lowest, highest + 1)
        place = tuple(window.get(axis, slice(0, 1)) for axis in self._axes)
        try:
            pixels = np.asarray(self._array[place] if self._chunks is None else self._chunks.read(place))
        except _ZARR_ERRORS as error:
            reason = str(error) or type(error).__name__
            raise RegionReadError(
                f"tile column {column}, row {row} of level {self._index} cannot be read: {reason}"
            ) from error
        order = [axis for axis in self._axes if axis in window]
        pixels = pixels.reshape(
            [n for axis, n in zip(self._axes, pixels.shape, strict=True) if axis in window]
        )
        if pixels.dtype.itemsize == 2:
            pixels = pixels >> 8
        if "c" not in order:
            return np.repeat(pixels.astype(np.uint8, copy=False)[..., None], 3, axis=2)
        planes = pixels.transpose([order.index(axis) for axis in "cyx"])
        rgb = np.empty((*planes.shape[1:], 3), np.uint8)
        # Plane by plane: a transposed copy of all costs three times as much.
        for color, channel in enumerate(self._channels or (lowest, lowest, lowest)):
            rgb[..., color] = planes[channel - lowest]
        return rgb

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        """See `TileLevel.prefetch`."""

    def jpeg(self, column: int, row: int) -> bytes:
        """See `TileLevel.jpeg`."""
        raise RegionReadError("chunks of zarr are no JPEG tiles")


def open_ome_zarr(
    source: ByteSource, *, default_mpp: float | None = None, channels: tuple[int, ...] = ()
) -> TiledSlide:
    """Open an OME-Zarr image by the metadata of its group: the first multiscale, its largest array first.

    Of a group with several images (as bioformats2raw writes) the largest is the slide. Axes are taken by
    their names, whole numbers of 16 bits by their high byte.
    Raises RefusedSlideError for several focal planes, points of time or channels without `channels`, and
    where the metadata contradict the arrays; UnsupportedSlideError for what is no OME-Zarr image.
    """
    folder, _, last = source.path.replace("\\", "/").rpartition("/")
    attributes = image_attributes(source.read(0, source.size)) if last in ZARR_METADATA else {}
    if not attributes:
        raise UnsupportedSlideError(f"'{source.name}' is not the metadata of an OME-Zarr image.")
    if "plate" in attributes:
        raise RefusedSlideError(f"'{source.name}' is a plate of wells: name the image in a well.")
    try:
        group: Any = zarr.open_group(folder, mode="r")
        if SEVERAL_IMAGES in attributes:
            group, attributes = _largest(group, source.name)
        levels, axes, multiscale = _levels(group, attributes, channels, source)
        blank = levels[0].left_out
    except _ZARR_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise RefusedSlideError(f"'{source.name}' is a damaged OME-Zarr image: {reason}.") from error
    stated, sides = square_mpp(*(_mpp(multiscale, axes, axis) for axis in "xy"))
    mpp, mpp_source = resolve_mpp(stated, None, default_mpp)
    base = levels[0]
    version = multiscale.get("version", attributes.get("version", "?"))
    info = SlideInfo(
        path=source.path,
        name=stem(source.name),
        reader="ome-zarr",
        format=f"OME-Zarr {version}, chunks {base.tile_width}x{base.tile_height}",
        levels=stated_levels(levels),
        mpp=mpp,
        mpp_source=mpp_source,
        objective_power=None,
        fingerprint=fingerprint(source),
        properties=({NOT_SQUARE: sides} if sides else {}) | ({BLANK_TILES: blank} if blank else {}),
    )
    return TiledSlide(info, levels, source)


def _largest(group: Any, name: str) -> tuple[Any, dict[str, Any]]:
    """Of the images 0, 1, ... of a group the one with the largest first array, and its attributes."""
    images: list[tuple[int, Any, dict[str, Any]]] = []
    for number in range(_MOST_IMAGES):
        if str(number) not in group:
            break
        image = group[str(number)]
        attributes: dict[str, Any] = dict(image.attrs)
        attributes = attributes.get("ome", attributes)
        if isinstance(image, zarr.Group) and "multiscales" in attributes:
            first: Any = image[attributes["multiscales"][0]["datasets"][0]["path"]]
            images.append((first.shape[-1] * first.shape[-2], image, attributes))
    if not images:
        raise RefusedSlideError(f"'{name}' names images and holds none: was it copied whole?")
    _, image, attributes = max(images, key=lambda entry: entry[0])
    return image, attributes


def _levels(
    group: Any, attributes: Mapping[str, Any], channels: tuple[int, ...], source: ByteSource
) -> tuple[tuple[_ZarrLevel, ...], list[str], Mapping[str, Any]]:
    """The levels of the first multiscale, the names of their axes, and the multiscale."""
    name = source.name
    multiscale = attributes["multiscales"][0]
    axes = [str(axis["name"] if isinstance(axis, dict) else axis) for axis in multiscale["axes"]]
    if len(set(axes)) != len(axes) or not set("yx") <= set(axes) <= set("tczyx"):
        raise RefusedSlideError(f"'{name}' has the axes {', '.join(axes)}, and t, c, z, y, x are read.")
    arrays = [group[dataset["path"]] for dataset in multiscale["datasets"]]
    for array in arrays:
        _check(array, axes, name)
    sizes = [tuple(array.shape[axes.index(axis)] for axis in "yx") for array in arrays]
    if any(after[0] > before[0] or after[1] > before[1] for before, after in pairwise(sizes)):
        raise RefusedSlideError(f"The levels of '{name}' are not in order of size: {sizes}.")
    base = arrays[0]
    count = base.shape[axes.index("c")] if "c" in axes else 1
    if count > 1 or channels:
        is_rgb = count == len(_COLORS) and base.dtype == np.uint8 and _are_colors(attributes)
        channels = rgb_channels(name, count, channels, is_rgb=is_rgb)
    levels = []
    for index, array in enumerate(arrays):
        chunks = None if is_url(source.path) else local_chunks(Path(source.path).parent, array)
        levels.append(_ZarrLevel(array, axes, channels, index, chunks))
    return tuple(levels), axes, multiscale


def _check(array: Any, axes: Sequence[str], name: str) -> None:
    """Refuse an array that is no picture, or larger than `limits` allow."""
    if not isinstance(array, zarr.Array) or array.ndim != len(axes) or min(array.shape) < 1:
        raise RefusedSlideError(f"A level of '{name}' has not the axes {', '.join(axes)}, as it says.")
    sizes = dict(zip(axes, array.shape, strict=True))
    if stack := [f"{sizes[axis]} {words}" for axis, words in _STACKS.items() if sizes.get(axis, 1) > 1]:
        raise RefusedSlideError(f"'{name}' holds {' and '.join(stack)}: save the picture you mean by itself.")
    if array.dtype not in (np.uint8, np.uint16):
        raise RefusedSlideError(f"'{name}' has samples of {array.dtype}, and uint8 and uint16 are read.")
    check_limit(f"Pixels of a level of '{name}'", sizes["x"] * sizes["y"], MAX_LEVEL_PIXELS)
    check_limit(f"Values of a chunk of '{name}'", int(np.prod(array.chunks)), 3 * MAX_TILE_PIXELS)


def _are_colors(attributes: Mapping[str, Any]) -> bool:
    """Whether three channels are red, green and blue: so unless the image gives them other colors."""
    stated = attributes.get("omero", {}).get("channels", [])
    colors = [str(channel.get("color", "")).upper() for channel in stated]
    return colors in ([], [""] * len(_COLORS), _COLORS)


def _mpp(multiscale: Mapping[str, Any], axes: Sequence[str], axis: str) -> float | None:
    """The side of a level-0 pixel in um: the scale of the first array and that of all, in the unit given."""
    place = axes.index(axis)
    entry = multiscale["axes"][place]
    size = 1.0
    for part in (multiscale["datasets"][0], multiscale):
        for transformation in part.get("coordinateTransformations", ()):
            if transformation.get("type") == "scale":
                with contextlib.suppress(LookupError, TypeError, ValueError):
                    size *= float(transformation["scale"][place])
    unit = entry.get("unit") if isinstance(entry, dict) else None
    return length_um(size if 0 < size < float("inf") else None, unit)
