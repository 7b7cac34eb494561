"""Tissue from a file made elsewhere: a picture of the whole slide, outlines, or a network."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from wsitool.base.paths import located
from wsitool.errors import LabelError, SlideError, UsageError
from wsitool.slides.annotation_files import ANNOTATION_SUFFIXES, Region, read_annotations
from wsitool.slides.onnx_tissue import check_onnx, onnx_mpp, onnx_tissue
from wsitool.slides.readers import open_slide
from wsitool.slides.slide import Slide, SlideInfo
from wsitool.slides.tissue import TissueMask, slide_thumbnail, tissue_mask
from wsitool.slides.tissue_registry import TISSUE

__all__ = ["check_tissue", "file_of", "find_mask", "find_tissue", "painted", "read_mask"]

Mask = NDArray[np.bool_]

MASK, ONNX = "mask:", "onnx:"
"""A name of --tissue that begins so is a path."""
_NAME = "{slide}"
# What is tried in a folder, in this order; the last two are PAIP's.
_ENDINGS = ("", "_mask", "_tissue", "_whole", "_viable")
_PICTURES = (".png", ".tif", ".tiff")
_STRETCHED = 0.02  # how unlike the slide's the sides' ratio may be, beside what rounding of the sides makes


def check_tissue(name: str) -> None:
    """UsageError unless --tissue `name` is a detector, or a mask's path that is there."""
    if name.startswith(ONNX):
        check_onnx(name.removeprefix(ONNX))
        return
    if not name.startswith(MASK):
        TISSUE.check(name)
        return
    location = name.removeprefix(MASK)
    folder = Path(location.split(_NAME)[0] + "x").parent if _NAME in location else Path(location)
    if not location or not os.path.exists(folder):  # noqa: PTH110 - Path's raises for a name too long
        raise UsageError(f"There is no mask or folder of masks '{folder}': check --tissue {name}.")


def find_tissue(slide: Slide, name: str) -> TissueMask:
    """The tissue of a slide, as `tissue_mask`, or by `MASK` and a path from a file.

    SlideError where there is no file for it, or one that cannot be of this slide.
    """
    if not name.startswith((MASK, ONNX)):
        return tissue_mask(slide, detector=name)
    if name.startswith(ONNX):
        network = name.removeprefix(ONNX)
        thumbnail, unread, downsample = slide_thumbnail(slide, onnx_mpp(network))
        mask = onnx_tissue(network, thumbnail)
    else:
        path = find_mask(name.removeprefix(MASK), slide.info.path, slide.info.name)
        thumbnail, unread, downsample = slide_thumbnail(slide)
        mask = read_mask(path, slide.info, unread.shape, downsample)
    return TissueMask(
        mask=mask | unread,
        thumbnail=thumbnail,
        downsample=(downsample, downsample),
        unreadable=int(unread.sum()),
    )


def find_mask(location: str, slide_path: str, name: str) -> Path:
    """The mask of a slide: `location`, that with its name for {slide}, or the one in that folder."""
    if _NAME in location:
        path = Path(location.replace(_NAME, name))
        tried = [path]
    elif Path(location).is_dir():
        suffixes = (*_PICTURES, *ANNOTATION_SUFFIXES)
        names = (f"{name}{ending}{suffix}" for ending in _ENDINGS for suffix in suffixes)
        tried = [located(Path(location), file) for file in names]
    else:
        tried = [Path(location)]
    own = Path(slide_path).resolve()
    for path in tried:
        if path.is_file() and path.resolve() != own:
            return path
    raise SlideError(
        f"There is no mask of '{name}' at '{location}': expected a picture or outlines such as "
        f"{tried[0].name}; --tissue chroma finds the tissue without one."
    )


def file_of(name: str, slide_path: str, slide_name: str) -> Path | None:
    """The file that decides, by --tissue `name`, what tissue is; None where no file does."""
    if name.startswith(ONNX):
        return Path(name.removeprefix(ONNX))
    return find_mask(name.removeprefix(MASK), slide_path, slide_name) if name.startswith(MASK) else None


def read_mask(path: Path, slide: SlideInfo, shape: tuple[int, int], downsample: float) -> Mask:
    """The mask (h, w) on a grid of `downsample` level-0 pixels: what is not black, or within the outlines.

    SlideError where a picture is of other proportions than the slide, or cannot be read.
    """
    if path.suffix.lower() not in _PICTURES:
        try:
            regions = read_annotations(path).on(slide).regions
        except LabelError as error:
            raise SlideError(f"The mask of '{slide.name}' cannot be used: {error}") from error
        # An export holds tiles beside the outlines; of tiles alone they are what is meant.
        drawn = tuple(region for region in regions if not region.tile)
        return painted(drawn or regions, shape, downsample)
    with open_slide(path) as opened:
        info = opened.info
        ratio = info.width * slide.height / (info.height * slide.width)
        if abs(ratio - 1) > _STRETCHED + 1 / min(info.width, info.height):
            raise SlideError(
                f"The mask '{path}' of {info.width} x {info.height} px is not of '{slide.name}', which has "
                f"{slide.width} x {slide.height}: its sides must be in the same proportion."
            )
        picture, unread, _ = slide_thumbnail(opened)
        if unread.any():
            raise SlideError(f"The mask '{path}' is damaged: a part of it cannot be read.")
    value = picture.max(axis=2)
    # Whether 1 or 255 is written for tissue; half of a pixel that lies on an edge.
    inside = value > value.max() / 2
    rows, columns = (
        np.minimum((np.arange(count) + 0.5) * downsample / side * size, size - 1).astype(int)
        for count, side, size in zip(shape, (slide.height, slide.width), value.shape, strict=True)
    )
    return np.asarray(inside[rows[:, None], columns])


def painted(regions: tuple[Region, ...], shape: tuple[int, int], downsample: float) -> Mask:
    """The pixels (h, w) of a grid of `downsample` level-0 pixels whose centers lie in one of the regions."""
    mask = np.zeros(shape, bool)
    for polygon in (part for region in regions for part in shapely.get_parts(region.area)):
        x0, y0, x1, y1 = (np.array(polygon.bounds) / downsample).tolist()
        left, top = max(0, int(x0) - 1), max(0, int(y0) - 1)
        right, bottom = min(shape[1], int(x1) + 2), min(shape[0], int(y1) + 2)
        if right <= left or bottom <= top:
            continue
        corner = np.array([top + 0.5, left + 0.5])
        rings = [shapely.get_coordinates(ring)[:, ::-1] / downsample - corner for ring in _rings(polygon)]
        area, *holes = (polygon2mask((bottom - top, right - left), ring) for ring in rings)
        for hole in holes:
            area &= ~hole
        mask[top:bottom, left:right] |= area
    return mask


def _rings(polygon: shapely.Geometry) -> list[shapely.Geometry]:
    return [polygon.exterior, *polygon.interiors]
