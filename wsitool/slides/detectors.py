"""The built-in tissue detectors, each a `DetectTissue` of `tissue_registry`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2hsv
from skimage.filters import threshold_otsu

from wsitool.slides.tissue import detect_tissue

__all__ = ["all_tissue", "chroma_tissue", "otsu_tissue"]

Rgb = NDArray[np.uint8]
Mask = NDArray[np.bool_]
_SPECK_UM = 50.0
_SPECK_PX = 39  # the same at 8 um/px


def chroma_tissue(thumbnail: Rgb, *, mpp: float | None, unread: Mask) -> Mask:
    """What is coloured (see `detect_tissue`); components below 50 um a side are specks of dirt."""
    speck_px = _SPECK_PX if mpp is None else round((_SPECK_UM / mpp) ** 2)
    return detect_tissue(thumbnail, speck_px=speck_px, ignore=unread)[0]


def otsu_tissue(thumbnail: Rgb, *, mpp: float | None, unread: Mask) -> Mask:
    """Saturation above its Otsu threshold (doi:10.1109/TSMC.1979.4310076), neither guarded nor smoothed.

    Of a slide without tissue it takes half: the threshold is somewhere in the noise.
    """
    saturation = rgb2hsv(thumbnail)[..., 1]
    seen = saturation[~unread]
    if not seen.size:
        return np.zeros(unread.shape, bool)
    return np.asarray(saturation > threshold_otsu(seen))


def all_tissue(thumbnail: Rgb, *, mpp: float | None, unread: Mask) -> Mask:
    """Everything."""
    return np.ones(unread.shape, bool)
