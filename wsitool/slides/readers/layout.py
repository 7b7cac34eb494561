"""How the pixels of one TIFF directory lie in the file, checked for contradictions before one is read.

Libraries fill in defaults where a tag is missing or damaged, and then show sheared, grey or shifted pixels;
what is read here is what the file says, and it says it consistently or is refused. Adobe TIFF 6.0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsitool.base.limits import (
    MAX_LEVEL_PIXELS,
    MAX_PICTURE_PIXELS,
    MAX_TILE_PIXELS,
    MAX_TILES,
    as_pyramid,
    check_limit,
)
from wsitool.slides.readers.directories import Directory

__all__ = ["JPEG_COMPRESSIONS", "PixelLayout", "check_directories", "pixel_layout"]

_TILE_TAGS, _STRIP_TAGS = (324, 325), (273, 279)  # offsets, byte counts
_TILE_WIDTH, _TILE_LENGTH, _ROWS_PER_STRIP = 322, 323, 278
_REQUIRED = {
    256: "ImageWidth",
    257: "ImageLength",
    258: "BitsPerSample",
    259: "Compression",
    262: "PhotometricInterpretation",
}
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _COLOR_MAP, _IMAGE_DEPTH = 338, 339, 320, 32997
# Samples a pixel must have, extra ones apart, for each photometric interpretation that there is.
_COLOR_SAMPLES = {
    0: 1,
    1: 1,
    2: 3,
    3: 1,
    4: 1,
    5: 4,
    6: 3,
    8: 3,
    9: 3,
    10: 3,
    32803: 1,
    32844: 1,
    32845: 3,
    34892: 3,
}
_MIN_IS_BLACK, _PALETTE, _YCBCR, _SUBSAMPLING = 1, 3, 6, 530
_BYTES_ONLY = (1, 5, 8, 32773, 32946, 34925, 34926, 50000)
_BITS = (1, 2, 4, 8, 10, 12, 14, 16, 24, 32, 64)
_PLANES_APART, _UNCOMPRESSED = 2, 1
_HEADER_BYTES = 8
_OFFSET_TYPES = (4, 13, 16, 18)
_WITHOUT_PREDICTOR = (1, 32773)
JPEG_COMPRESSIONS = (7, 33007)


@dataclass(frozen=True, kw_only=True)
class PixelLayout:
    """Sizes in pixels; a strip is a tile as wide as the image. Numbers are those of the TIFF tags."""

    directory: Directory
    width: int
    height: int
    tile_width: int
    tile_height: int
    is_tiled: bool
    bits: int
    samples: int
    sample_format: int
    photometric: int
    compression: int
    planar: int
    fill_order: int
    predictor: int

    @property
    def columns(self) -> int:
        """Tiles side by side."""
        return -(-self.width // self.tile_width)

    @property
    def tiles(self) -> int:
        """Tiles, or strips, of the whole image (of all planes)."""
        return self.tiles_per_plane * self.planes

    @property
    def tiles_per_plane(self) -> int:
        """Tiles, or strips, that cover the image once; those of the second plane follow these."""
        return self.columns * -(-self.height // self.tile_height)

    @property
    def planes(self) -> int:
        """How many tiles make one place's pixels: one for each sample where these are stored apart."""
        return self.samples if self.planar == _PLANES_APART else 1

    @property
    def sample_type(self) -> np.dtype[np.unsignedinteger]:
        """The type of one whole-numbered sample, in the file's byte order."""
        return np.dtype(f"{self.directory.byte_order}u{self.bits // 8}")

    def plane(self) -> Self:
        """The layout of one plane's tiles by themselves: grey ones."""
        return replace(self, samples=1, planar=1, photometric=_MIN_IS_BLACK)

    def palette(self) -> NDArray[np.uint8]:
        """(2**bits, 3) colours, of which the file has 16 bits a sample and the high byte is kept."""
        return (self.directory.array(_COLOR_MAP).reshape(3, -1).T >> np.uint64(8)).astype(np.uint8)

    def table(self, which: int) -> NDArray[np.uint64]:
        """Offsets (0) or byte counts (1) of the tiles."""
        tag = (_TILE_TAGS if self.is_tiled else _STRIP_TAGS)[which]
        return self.directory.array(tag if tag in self.directory.entries else _STRIP_TAGS[which])

    def overlapping(self) -> frozenset[int]:
        """Tiles of plain samples whose bytes partly are another tile's, or the file's header.

        Any bytes make plain samples, so nothing else shows that an offset was hit. Equal tiles may share all.
        """
        if self.compression != _UNCOMPRESSED:
            return frozenset()
        starts, counts = self.table(0).astype(np.int64), self.table(1).astype(np.int64)
        used = np.flatnonzero(counts)
        order = used[np.lexsort((counts[used], starts[used]))]
        begin, end = starts[order], starts[order] + counts[order]
        same = (begin[1:] == begin[:-1]) & (end[1:] == end[:-1])
        touching = np.flatnonzero((begin[1:] < end[:-1]) & ~same)
        head = order[begin < _HEADER_BYTES]
        return frozenset(np.concatenate([order[touching], order[touching + 1], head]).tolist())


def check_directories(directories: list[Directory]) -> None:
    """Raise RefusedSlideError where the first directory, or a tiled one (a level?), contradicts itself."""
    for number, directory in enumerate(directories):
        if not directory.is_ndpi and (number == 0 or directory.is_tiled):
            pixel_layout(directory)


def pixel_layout(directory: Directory) -> PixelLayout:
    """Read the tags that decide where pixels are and what they mean.

    Raises RefusedSlideError where one is missing or damaged, where two contradict each other, or where they
    claim more than `limits` allow.
    """
    problem = _missing(directory)
    if problem:
        raise directory.refusal(problem)
    width, height = _one(directory, 256), _one(directory, 257)
    if directory.is_tiled:
        tile_width, tile_height = _one(directory, _TILE_WIDTH), _one(directory, _TILE_LENGTH)
    else:
        tile_width, tile_height = width, min(_one(directory, _ROWS_PER_STRIP, height), height)
    formats = directory.numbers(_SAMPLE_FORMAT) or (1,)
    layout = PixelLayout(
        directory=directory,
        width=width,
        height=height,
        tile_width=tile_width,
        tile_height=tile_height,
        is_tiled=directory.is_tiled,
        bits=directory.numbers(258)[0],
        sample_format=formats[0],
        photometric=_one(directory, 262),
        compression=_one(directory, 259),
        samples=_one(directory, 277, 1),
        planar=_one(directory, 284, 1),
        fill_order=_one(directory, 266, 1),
        predictor=_one(directory, 317, 1),
    )
    problem = _contradiction(layout)
    if problem:
        raise directory.refusal(problem)
    _check_size(layout)
    problem = _miscounted(layout)
    if problem:
        raise directory.refusal(problem)
    return layout


def _one(directory: Directory, tag: int, default: int | None = None) -> int:
    """The one value of a tag."""
    values = directory.numbers(tag, most=1)
    if values:
        return values[0]
    if default is None:
        raise directory.refusal(f"its tag {tag} is missing")
    return default


def _missing(directory: Directory) -> str:
    for tag, name in _REQUIRED.items():
        if tag not in directory.entries:
            return f"its tag {name} is missing"
    if not directory.in_order:
        # Whoever writes tags sorts them: this is how a tag whose number was hit shows.
        return "its tags are not in order, as if one had been overwritten"
    return ""


def _contradiction(layout: PixelLayout) -> str:
    """What tags about samples contradict; "" where nothing does."""
    directory, samples = layout.directory, layout.samples
    bits, formats = set(directory.numbers(258)), set(directory.numbers(_SAMPLE_FORMAT))
    needed = _COLOR_SAMPLES.get(layout.photometric)
    extra = len(directory.numbers(_EXTRA_SAMPLES))
    # Many writers leave out that the fourth sample is alpha.
    fitting = () if needed is None else (needed + extra, needed + 1) if not extra else (needed + extra,)
    if min(layout.width, layout.height, layout.tile_width, layout.tile_height, samples) < 1:
        return "its size is zero"
    if len(bits) != 1 or layout.bits not in _BITS or len(directory.numbers(258)) not in (1, samples):
        return f"{samples} sample(s) per pixel with bits {directory.numbers(258)}"
    if len(formats) > 1 or len(directory.numbers(_SAMPLE_FORMAT)) not in (0, 1, samples):
        return f"{samples} sample(s) per pixel with the formats {directory.numbers(_SAMPLE_FORMAT)}"
    if needed is None:
        return f"its photometric interpretation {layout.photometric} is none that there is"
    if samples not in fitting:
        return f"{samples} sample(s) per pixel, {extra} of them extra, where its colours need {needed}"
    if layout.photometric == _PALETTE:
        colors = directory.numeric(_COLOR_MAP)
        if colors is None or colors.count != 3 << layout.bits:
            return (
                f"its palette has {colors.count if colors else 0} values where {layout.bits} bits need 3 each"
            )
    if (
        layout.photometric == _YCBCR
        and layout.compression in _BYTES_ONLY
        and _SUBSAMPLING not in directory.entries
    ):
        return "its pixels are YCbCr and nothing says how they are subsampled"
    if layout.planar not in (1, _PLANES_APART) or layout.fill_order not in (1, 2):
        return f"planar configuration {layout.planar}, fill order {layout.fill_order}"
    if layout.predictor not in (1, 2, 3) or (layout.predictor == 3 and layout.sample_format != 3):
        return f"predictor {layout.predictor} for samples of format {layout.sample_format}"
    if layout.predictor != 1 and layout.compression in _WITHOUT_PREDICTOR:
        return f"predictor {layout.predictor} with compression {layout.compression}, which has none"
    if layout.sample_format == 3 and layout.bits < 16:
        return f"floating-point samples of {layout.bits} bits"
    return ""


def _check_size(layout: PixelLayout) -> None:
    name = layout.directory.source.name
    size, tile = f"{layout.width} x {layout.height}", f"{layout.tile_width} x {layout.tile_height}"
    check_limit(f"Pixels of a level of '{name}' ({size})", layout.width * layout.height, MAX_LEVEL_PIXELS)
    largest = MAX_TILE_PIXELS if layout.is_tiled else MAX_PICTURE_PIXELS
    kind = "tile" if layout.is_tiled else "strip"
    pixels = layout.tile_width * layout.tile_height
    instead = "" if layout.is_tiled else as_pyramid(name, pixels)
    check_limit(f"Pixels of a {kind} of '{name}' ({tile})", pixels, largest, instead=instead)
    check_limit(f"Tiles of a level of '{name}'", layout.tiles, MAX_TILES)


def _miscounted(layout: PixelLayout) -> str:
    """How the tables of tiles do not fit the size; "" where they do."""
    directory, depth = layout.directory, _one(layout.directory, _IMAGE_DEPTH, 1)
    kind, expected = "tiles" if layout.is_tiled else "strips", layout.tiles * max(depth, 1)
    for tag, old in zip(_TILE_TAGS if layout.is_tiled else _STRIP_TAGS, _STRIP_TAGS, strict=True):
        number = tag if tag in directory.entries else old
        entry = directory.numeric(number)
        if entry is None or entry.count != expected:
            return f"it lists {entry.count if entry else 0} {kind} where its size makes {expected}"
        if old == _STRIP_TAGS[0] and entry.type not in _OFFSET_TYPES and directory.source.size > 0xFFFF:
            return f"its tag {number} has offsets of fewer bytes than the file needs"
    return ""
