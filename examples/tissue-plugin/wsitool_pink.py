"""The tissue detector 'pink': the hues of haematoxylin and eosin, by fixed limits that no slide can move."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2hsv

from wsitool import TissueDetector

__all__ = ["DETECTOR", "detect_pink"]

DETECTOR = TissueDetector(
    name="pink",
    detect="wsitool_pink:detect_pink",
    about="hue from blue-violet over pink to red, saturation of at least 0.07, by fixed limits",
)
_FIRST_HUE, _LAST_HUE = 0.66, 0.03  # of a turn, over 1: pen in green, blue or black is outside
_LEAST_SATURATION = 0.07


def detect_pink(
    thumbnail: NDArray[np.uint8], *, mpp: float | None, unread: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Mask (h, w) of the pixels of (h, w, 3) uint8 RGB that are stained; each is judged by itself."""
    hue, saturation, _ = np.moveaxis(rgb2hsv(thumbnail), -1, 0)
    mask: NDArray[np.bool_] = (saturation >= _LEAST_SATURATION) & ((hue >= _FIRST_HUE) | (hue <= _LAST_HUE))
    return mask
