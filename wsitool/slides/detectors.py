"""The built-in tissue detectors, each a `DetectTissue` of `tissue_registry`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, maximum_filter, minimum_filter, uniform_filter
from skimage.color import rgb2hsv
from skimage.filters import gaussian, threshold_otsu

from wsitool.slides.tissue import detect_tissue, optical_density, white_balance, without_small

__all__ = ["all_tissue", "chroma_tissue", "density_tissue", "filled_tissue", "otsu_tissue", "stained_within"]

Rgb = NDArray[np.uint8]
Mask = NDArray[np.bool_]
_DENSITY_GUARD = (0.05, 0.2)
# Less color than this, of what is dark: then there is no colored tissue. Levels of gray in 5 x 5 pixels.
_COLORLESS, _MOTTLED = 0.05, 5.0
_GAP_UM, _GAP_PX = 150.0, 19
_SQUARE_PX, _LEAST_OUTLINED = 4, 0.01
_SPECK_UM = 50.0
_SPECK_PX = 39  # the same at 8 um/px


def chroma_tissue(thumbnail: Rgb, *, mpp: float | None, unread: Mask) -> Mask:
    """What is coloured (see `detect_tissue`); components below 50 um a side are specks of dirt.

    Where hardly anything is, and what is dark is mottled, it is what is dark: silver stains, gray scans.
    """
    colored = detect_tissue(thumbnail, speck_px=_speck_px(mpp), ignore=unread)[0]
    # As a bound first, which is cheap: of nearly all slides it is enough.
    most_dark = int((optical_density(white_balance(thumbnail)) > _DENSITY_GUARD[0]).sum())
    if colored.sum() >= _COLORLESS * most_dark:
        return colored
    dark = density_tissue(thumbnail, mpp=mpp, unread=unread)
    return colored if colored.sum() >= _COLORLESS * dark.sum() or not _is_mottled(thumbnail, dark) else dark


def filled_tissue(thumbnail: Rgb, *, mpp: float | None, unread: Mask) -> Mask:
    """`chroma_tissue` with all within its outline: gaps up to 150 um closed, then holes filled.

    For fat, of which nothing but thin walls is stained.
    """
    side = _GAP_PX if mpp is None else max(1, round(_GAP_UM / mpp))
    mask = chroma_tissue(thumbnail, mpp=mpp, unread=unread)
    reach = (side + 1) // 2
    grown = np.pad(mask, reach)
    closed = minimum_filter(maximum_filter(grown, 2 * reach + 1), 2 * reach + 1)
    return np.asarray(binary_fill_holes(closed))[reach:-reach, reach:-reach] & ~unread


def stained_within(mask: Mask) -> float:
    """Share of what lies within the outlines of (h, w) that is in the mask: of fat about half, else most.

    Outlines are those of squares of 4 px that have any, without holes; 1 where these are under 1 % of all.
    """
    height, width = (side // _SQUARE_PX * _SQUARE_PX for side in mask.shape)
    squares = mask[:height, :width].reshape(height // _SQUARE_PX, _SQUARE_PX, width // _SQUARE_PX, _SQUARE_PX)
    inside = binary_fill_holes(squares.any(axis=(1, 3)))
    if inside.sum() < max(1.0, _LEAST_OUTLINED * inside.size):
        return 1.0
    return float(squares.mean(axis=(1, 3))[inside].mean())


def _is_mottled(thumbnail: Rgb, dark: Mask) -> bool:
    """Whether what is dark is as uneven as tissue; shadows, glue and gradients are smooth."""
    light = thumbnail.mean(axis=2, dtype=np.float32)
    unevenness = np.sqrt(np.maximum(uniform_filter(light**2, 5) - uniform_filter(light, 5) ** 2, 0))
    inside = minimum_filter(dark, 5)
    return bool(inside.any()) and float(np.median(unevenness[inside])) > _MOTTLED


def _speck_px(mpp: float | None) -> int:
    return _SPECK_PX if mpp is None else round((_SPECK_UM / mpp) ** 2)


def otsu_tissue(thumbnail: Rgb, *, mpp: float | None, unread: Mask) -> Mask:
    """Saturation above its Otsu threshold (doi:10.1109/TSMC.1979.4310076), neither guarded nor smoothed.

    Of a slide without tissue it takes half: the threshold is somewhere in the noise.
    """
    saturation = rgb2hsv(thumbnail)[..., 1]
    seen = saturation[~unread]
    if not seen.size:
        return np.zeros(unread.shape, bool)
    return np.asarray(saturation > threshold_otsu(seen))


def density_tissue(thumbnail: Rgb, *, mpp: float | None, unread: Mask) -> Mask:
    """What is darker than the glass, whatever its color: silver stains, gray scans.

    Optical density (see `optical_density`), smoothed, above its Otsu threshold, which is held between 0.05
    and 0.2: noise of glass lies below, all but the palest tissue above. Specks go as in `chroma_tissue`.
    Shadows, dirt and a gradient of the light are dark, too.
    """
    density = gaussian(optical_density(white_balance(thumbnail)), sigma=1.0, mode="nearest")
    seen = density[~unread]
    low, high = _DENSITY_GUARD
    otsu = float(threshold_otsu(seen)) if seen.size and np.ptp(seen) > 0 else high
    return without_small((density > min(max(otsu, low), high)) & ~unread, _speck_px(mpp))


def all_tissue(thumbnail: Rgb, *, mpp: float | None, unread: Mask) -> Mask:
    """Everything."""
    return np.ones(unread.shape, bool)
