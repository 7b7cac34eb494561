"""Which pages of a TIFF are the slide: the largest pyramid, and of several channels the colors."""

from __future__ import annotations

import numpy as np
import tifffile

from wsitool.errors import RefusedSlideError, UnsupportedSlideError
from wsitool.slides.readers.channels import rgb_channels

__all__ = ["level_pages"]

# Axes of tifffile along which a picture is not one: of I and Q nothing is known, and the first is taken.
_STACKS = {"C": "channels", "Z": "focal planes", "T": "points of time", "L": "exposures", "R": "tiles"}


def level_pages(
    tiff: tifffile.TiffFile, name: str, channels: tuple[int, ...]
) -> list[list[tifffile.TiffPage]]:
    """The pages of each level of the largest pyramid, largest first: one, or three that are red, green, blue.

    UnsupportedSlideError names what is in the way; RefusedSlideError where the pixels are of other channels,
    of which another reader would show the first as grey.
    """
    for kind in ("ndpi", "scn", "bif"):
        if getattr(tiff, f"is_{kind}", False):
            raise UnsupportedSlideError(f"{kind.upper()} files are read by OpenSlide.")
    if name.lower().endswith(".vsi"):
        raise RefusedSlideError(
            f"'{name}' holds the label only: the pixels of Olympus's format lie in .ets files, which are not "
            "read; convert it (bioformats2raw makes OME-Zarr of it) and name what comes of that."
        )
    if tiff.is_svs:
        # tifffile takes the second page for the thumbnail even where there is none; as OpenSlide does,
        # tell levels from thumbnail, label and macro by their tiles.
        all_pages = [page.aspage() for page in tiff.pages]
        levels = [[page] for page in all_pages if page.is_tiled] or [all_pages[:1]]
    else:
        # Labels, macros and thumbnails are series of their own, and in some files the first.
        largest = max(
            tiff.series, key=lambda series: series.keyframe.imagewidth * series.keyframe.imagelength
        )
        levels = [_colors_of(level, tiff, name, channels) for level in largest.levels]
    base = levels[0][0]
    kept = levels[:1]
    for pages in levels[1:]:
        page = pages[0]
        ratio_x, ratio_y = base.imagewidth / page.imagewidth, base.imagelength / page.imagelength
        # Rounding may cost a small level up to a pixel per side; anything more is another picture.
        if abs(ratio_x - ratio_y) <= 0.02 * max(ratio_x, ratio_y) + 2 * ratio_x / min(page.shape[:2]):
            kept.append(pages)
    return kept


def _colors_of(
    series: tifffile.TiffPageSeries, tiff: tifffile.TiffFile, name: str, channels: tuple[int, ...]
) -> list[tifffile.TiffPage]:
    """The pages that together are the colours of one level; RefusedSlideError where they are others."""
    sizes = dict(zip(series.axes, series.shape, strict=True))
    count = {axis: size for axis, size in sizes.items() if axis in _STACKS and size > 1}
    if channels and "S" in sizes:
        raise RefusedSlideError(f"'{name}' has colors and no channels to choose from: leave --channels out.")
    if not count and not channels:
        return [series.keyframe]
    if count.keys() <= {"C"} and "S" not in sizes:
        is_rgb = count.get("C") == 3 and series.dtype == np.uint8 and not tiff.is_qpi
        pages = [page.aspage() for page in series.pages if page is not None]
        picked = rgb_channels(name, count.get("C", 1), channels, is_rgb=is_rgb)
        if max(picked) < len(pages):
            return [pages[channel] for channel in picked]
    stack = " and ".join(f"{size} {_STACKS[axis]}" for axis, size in count.items())
    raise RefusedSlideError(
        f"'{name}' holds {stack} and no colors: only RGB, in one page or in three of 8 bits, is read; save "
        "the picture you mean as RGB."
    )
