"""The stains of some pixels: Macenko's vectors, Reinhard's moments.

Macenko et al. 2009, doi:10.1109/ISBI.2009.5193250; Reinhard et al. 2001, doi:10.1109/38.946629, in CIELAB as
pathology uses it. Arrays are numpy; the same figures are applied to batches by `wsitool.augment.stain_norm`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsitool.store.stain_table import StainMethod

__all__ = ["LIGHT", "Unfit", "fit_stain", "lab_of", "transform"]

Floats = NDArray[np.float64]

LIGHT = 240.0
"""The intensity of glass, as in the authors' own program; densities are -log((value + 1) / LIGHT)."""
# Tissue is denser than this in all channels; extremes are this percentile of the angles.
_LEAST_DENSITY, _EXTREME, _STRONGEST = 0.15, 1.0, 99.0
# Fewer pixels of tissue say nothing; nearer vectors (degrees) are one stain and its noise.
_LEAST_PIXELS, _LEAST_ANGLE = 1000, 8.0
# A stain lets no color through brighter than it came.
_LEAST_ABSORPTION = -0.1
_LEAST_SPREAD = 0.5  # in CIELAB; divided by, less would be noise blown up
# sRGB to CIE XYZ (IEC 61966-2-1), and the white of D65.
_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


class Unfit(ValueError):
    """The pixels do not show what a fit needs; the sentence's end says why."""


def fit_stain(pixels: NDArray[np.uint8], method: StainMethod) -> tuple[float, ...]:
    """The figures of `StainNorm.target` of pixels (N, 3) uint8 RGB; Unfit where they have none."""
    densities = -np.log((pixels.astype(np.float64) + 1) / LIGHT)
    tissue = (densities >= _LEAST_DENSITY).all(axis=1)
    if tissue.sum() < _LEAST_PIXELS:
        raise Unfit(f"only {int(tissue.sum())} of {len(pixels)} pixels looked at are of tissue")
    if method == "reinhard":
        return _moments(lab_of(pixels[tissue]))
    stains = _stain_vectors(densities[tissue])
    strongest = np.percentile(np.linalg.lstsq(stains, densities.T, rcond=None)[0], _STRONGEST, axis=1)
    if not (strongest > 0).all():
        raise Unfit("one of its two stains is nowhere to be seen")
    return (*map(float, stains.T.ravel()), *map(float, strongest))


def _stain_vectors(densities: Floats) -> Floats:
    """(3, 2) unit vectors of haematoxylin and eosin: extremes of the plane of densities (N, 3)."""
    _, vectors = np.linalg.eigh(np.cov(densities.T))
    plane = vectors[:, [1, 2]]
    # The signs are arbitrary; with the larger axis along what absorbs, no angle is beside the turn.
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    angles = np.arctan2(*(densities @ plane).T[::-1])
    low, high = np.percentile(angles, [_EXTREME, 100 - _EXTREME])
    first, second = (plane @ np.array([np.cos(angle), np.sin(angle)]) for angle in (low, high))
    if np.degrees(high - low) < _LEAST_ANGLE:
        raise Unfit(f"it has one stain only (its extremes are {np.degrees(high - low):.1f} degrees apart)")
    if min(first.min(), second.min()) < _LEAST_ABSORPTION:
        raise Unfit("its colors are no mixture of two stains")
    # Haematoxylin absorbs more red.
    return np.stack([first, second] if first[0] > second[0] else [second, first], axis=1)


def _moments(lab: Floats) -> tuple[float, ...]:
    mean, deviation = lab.mean(axis=0), lab.std(axis=0)
    if deviation.min() < _LEAST_SPREAD:
        raise Unfit("it has no colors, or one even one")
    return (*map(float, mean), *map(float, deviation))


def lab_of(pixels: NDArray[np.uint8]) -> Floats:
    """CIELAB (N, 3) of sRGB pixels (N, 3) uint8."""
    share = pixels.astype(np.float64) / 255
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    xyz = linear @ _XYZ.T / _WHITE
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def transform(method: StainMethod, fitted: Sequence[float], target: Sequence[float]) -> NDArray[np.float32]:
    """What turns a slide of these stains into the target: a row of `StainTable.values`."""
    source, wanted = np.asarray(fitted, np.float64), np.asarray(target, np.float64)
    if method == "reinhard":
        scale = wanted[3:] / source[3:]
        return np.concatenate([scale, wanted[:3] - source[:3] * scale]).astype(np.float32)
    stains, wanted_stains = source[:6].reshape(2, 3).T, wanted[:6].reshape(2, 3).T
    scale = wanted[6:] / source[6:]
    # To concentrations, to those of the target, and back to densities; what is neither stain is left out.
    product = (wanted_stains * scale) @ np.linalg.pinv(stains)
    return product.ravel().astype(np.float32)
