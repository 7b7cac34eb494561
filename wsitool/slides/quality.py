"""How good each candidate patch is, judged on low-resolution pixels only.

Scores here are shares of the patch's area in [0, 1]; `sharpness` is in `wsitool.tiling.sharpness`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wsitool.slides.tissue import TissueMask, channel_range, white_balance

__all__ = ["ink_masks", "score_candidates"]

# Rows of the thumbnail at once.
_BAND = 256


def score_candidates(
    mask: TissueMask, coords: NDArray[np.int64], size_level0: float
) -> dict[str, NDArray[np.float32]]:
    """Score the patches at level-0 `coords` (M, 2) on the mask's thumbnail: name -> (M,) float32.

    The scores are `pen`, `fold`, `near_white` and `near_black`, see `ink_masks`.
    """
    # A mask of ink in place of the one of tissue: the same exact shares of areas.
    return {
        name: replace(mask, mask=ink).fraction(coords, size_level0) for name, ink in ink_masks(mask).items()
    }


def ink_masks(mask: TissueMask) -> dict[str, NDArray[np.bool_]]:
    """Which pixels of the thumbnail are pen, fold, near white, near black: name -> (h, w) bool.

    Pens are recognised by hues that stained tissue does not have: saturated green to sky blue, and pure red;
    black ones are near black. A fold is stained twice: its optical density is twice the tissue's median
    (Beer-Lambert), and saturation exceeds brightness (Bautista and Yagi, doi:10.1117/1.JBO.17.11.116012).
    """
    # White-balanced, so that yellow glass does not shift every hue.
    picture = white_balance(mask.thumbnail)
    masks = {name: np.zeros(mask.mask.shape, bool) for name in ("pen", "fold", "near_white", "near_black")}
    # Every eighth row is enough for a median, and bands keep the many float pictures small.
    some = mask.mask[::8]
    # Without tissue any median will do: no pixel can be a fold.
    median = float(np.median(_density(picture[::8])[some])) if some.any() else 1.0
    for top in range(0, len(picture), _BAND):
        band = slice(top, top + _BAND)
        for name, ink in _ink_in(picture[band], mask.mask[band], median).items():
            masks[name][band] = ink
    return masks


def _ink_in(
    picture: NDArray[np.uint8], tissue: NDArray[np.bool_], median: float
) -> dict[str, NDArray[np.bool_]]:
    hue, saturation, value = _hsv(picture)
    low, high = channel_range(picture)
    # Hue in degrees: sky blue ends at 215, short of haematoxylin's violet.
    green = (hue >= 70) & (hue < 170) & (saturation > 0.2) & (low < 200)
    blue = (hue >= 170) & (hue < 215) & (saturation > 0.35)
    red = ((hue < 10) | (hue >= 350)) & (saturation > 0.7) & (value > 0.4)
    black = (high < 60) & (high - low < 25)
    # Black is denser than any fold, and has a score of its own.
    fold = tissue & (_density(picture) > 2 * median) & (saturation > value + 0.1) & ~black
    return {"pen": green | blue | red, "fold": fold, "near_white": low > 225, "near_black": black}


def _density(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Optical density of the mean of the channels (h, w)."""
    # + 1 and / 256: black has a density of 2.4 instead of infinity.
    return np.asarray(-np.log10((picture.mean(axis=2, dtype=np.float32) + 1) / 256), np.float32)


def _hsv(
    rgb: NDArray[np.uint8],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Hue in degrees, saturation and value in [0, 1], each (h, w) float32."""
    red, green, blue = (rgb[..., c].astype(np.float32) for c in range(3))
    high = np.maximum(np.maximum(red, green), blue)
    chroma = high - np.minimum(np.minimum(red, green), blue)
    # Grey pixels have no hue: 0 divided by 1.
    safe = np.maximum(chroma, 1)
    hue = np.where(
        high == red,
        (green - blue) / safe % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    saturation = np.asarray(chroma / np.maximum(high, 1), np.float32)
    return np.asarray(60 * hue, np.float32), saturation, np.asarray(high / 255, np.float32)
