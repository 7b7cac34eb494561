"""How good each candidate patch is, judged on low-resolution pixels only.

Scores here are shares of the patch's area in [0, 1]; `sharpness` is in `wsitool.tiling.sharpness`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_opening, uniform_filter

from wsitool.slides.tissue import TissueMask, channel_range, optical_density, white_balance

__all__ = ["ink_masks", "score_candidates"]

Floats = NDArray[np.float32]

# Rows of the thumbnail at once.
_BAND = 256
# Ink is one even color: of the pixels of a color (cells of 10 degrees of hue, tenths of saturation and of
# value) that are this saturated and dense, so many have neighbours within these levels. Tissue is mottled: of
# the stains drawn and the slides scanned none came to more than a sixth of that share.
_SATURATED, _DENSE, _EVEN, _EVEN_SHARE, _LEAST_INK = 0.55, 0.2, 4.0, 0.4, 100
_CELLS = 36 * 10 * 10
# Even colors over more of the tissue than this are drawn tissue, not ink; and a hue of pens over more of it
# is the stain's, unless so many of its pixels are even.
_MOST_INK, _MOST_HUE, _EVEN_HUE = 0.5, 0.3, 0.2
# Black grains narrower than this, in pixels, are no ink: silver has them.
_GRAIN = 5
_HUES = ("green", "blue", "red")


def score_candidates(
    mask: TissueMask, coords: NDArray[np.int64], size_level0: float
) -> dict[str, NDArray[np.float32]]:
    """Score the patches at level-0 `coords` (M, 2) on the mask's thumbnail: name -> (M,) float32.

    The scores are `pen`, `fold`, `near_white` and `near_black`, see `ink_masks`: shares of the patch; and
    `ink`, the share of pen in what the mask has of it, so that a patch of tissue and a stroke counts by what
    is left of tissue. (`pen` itself has no limit by default: classifiers and stores of earlier builds have.)
    """

    def shares(pixels: NDArray[np.bool_]) -> NDArray[np.float32]:
        # In place of the mask of tissue: the same exact shares of areas.
        return replace(mask, mask=pixels).fraction(coords, size_level0)

    masks = ink_masks(mask)
    scores = {name: shares(pixels) for name, pixels in masks.items()}
    ink, tissue = shares(_with_edges(masks["pen"]) & mask.mask), shares(mask.mask)
    scores["ink"] = np.divide(ink, tissue, out=np.zeros_like(ink), where=tissue > 0)
    return scores


def _with_edges(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Ink and, of strokes, the pixels around, which are half ink; single pixels may be of the stain."""
    return np.asarray(ink | binary_dilation(binary_opening(ink, np.ones((3, 3), bool))))


def ink_masks(mask: TissueMask) -> dict[str, NDArray[np.bool_]]:
    """Which pixels of the thumbnail are pen, fold, near white, near black: name -> (h, w) bool.

    Pens are recognised by hues that stained tissue does not have (saturated green to sky blue, and pure red),
    unless a third of the tissue has one and is mottled, as Sirius red is; and by colors that are even, as no
    stain tried was. Black ones are near black. A fold is stained twice: its optical density is twice
    the tissue's median (Beer-Lambert), and saturation exceeds brightness (Bautista and Yagi,
    doi:10.1117/1.JBO.17.11.116012).
    """
    # White-balanced, so that yellow glass does not shift every hue.
    picture = white_balance(mask.thumbnail)
    # Every eighth row is enough for a median, and bands keep the many float pictures small.
    some = mask.mask[::8]
    # Without tissue any median will do: no pixel can be a fold.
    median = float(np.median(optical_density(picture[::8])[some])) if some.any() else 1.0
    bands = [slice(top, top + _BAND) for top in range(0, len(picture), _BAND)]
    colors = _Colors()
    for band in bands:
        colors.add(picture[band], mask.mask[band])
    hues, inks = colors.pen_hues(), colors.inks()
    parts = [_ink_in(picture[band], mask.mask[band], median, hues, inks) for band in bands]
    masks = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    masks["near_black"] &= binary_opening(masks["near_black"], np.ones((_GRAIN, _GRAIN), bool))
    return masks


class _Colors:
    """How many pixels of the tissue are of each hue of pens and each cell of color, and how many even."""

    def __init__(self) -> None:
        self._tissue = 0
        self._cells = np.zeros((2, _CELLS), np.int64)  # all, even
        self._hues = np.zeros((2, len(_HUES)), np.int64)

    def add(self, picture: NDArray[np.uint8], tissue: NDArray[np.bool_]) -> None:
        """Count the tissue of (h, w, 3) uint8."""
        hue, saturation, value = _hsv(picture)
        even = _unevenness(picture) < _EVEN
        vivid = tissue & (saturation > _SATURATED) & (optical_density(picture) > _DENSE)
        codes = _cells(hue, saturation, value)
        self._tissue += int(tissue.sum())
        for row, among in enumerate((vivid, vivid & even)):
            self._cells[row] += np.bincount(codes[among], minlength=_CELLS)
        for column, pixels in enumerate(_pen_hues(picture, hue, saturation, value)):
            self._hues[:, column] += (int((pixels & tissue).sum()), int((pixels & tissue & even).sum()))

    def pen_hues(self) -> tuple[bool, ...]:
        """Which of `_HUES` are pens' here."""
        count, even = self._hues
        return tuple((count <= _MOST_HUE * self._tissue) | (even >= _EVEN_HUE * count))

    def inks(self) -> NDArray[np.bool_]:
        """Which cells of color (3600,) are of ink."""
        count, even = self._cells
        is_even = (count >= _LEAST_INK) & (even >= _EVEN_SHARE * count)
        return np.asarray(is_even & (count[is_even].sum() <= _MOST_INK * self._tissue))


def _ink_in(
    picture: NDArray[np.uint8],
    tissue: NDArray[np.bool_],
    median: float,
    hues: tuple[bool, ...],
    inks: NDArray[np.bool_],
) -> dict[str, NDArray[np.bool_]]:
    hue, saturation, value = _hsv(picture)
    low, high = channel_range(picture)
    density = optical_density(picture)
    black = (high < 60) & (high - low < 25)
    # Black is denser than any fold, and has a score of its own.
    fold = tissue & (density > 2 * median) & (saturation > value + 0.1) & ~black
    pen = tissue & (saturation > _SATURATED) & (density > _DENSE) & inks[_cells(hue, saturation, value)]
    for pixels, is_pen in zip(_pen_hues(picture, hue, saturation, value), hues, strict=True):
        if is_pen:
            pen |= pixels
    return {"pen": pen, "fold": fold & ~pen, "near_white": low > 225, "near_black": black}


def _pen_hues(
    picture: NDArray[np.uint8], hue: Floats, saturation: Floats, value: Floats
) -> tuple[NDArray[np.bool_], ...]:
    """Pixels of each of `_HUES`; sky blue ends at 215 degrees, short of haematoxylin's violet."""
    low, _ = channel_range(picture)
    return (
        (hue >= 70) & (hue < 170) & (saturation > 0.2) & (low < 200),
        (hue >= 170) & (hue < 215) & (saturation > 0.35),
        ((hue < 10) | (hue >= 350)) & (saturation > 0.7) & (value > 0.4),
    )


def _cells(hue: Floats, saturation: Floats, value: Floats) -> NDArray[np.int32]:
    tenths = (np.minimum(part * 10, 9).astype(np.int32) for part in (saturation, value))
    return np.ravel_multi_index((np.minimum(hue / 10, 35).astype(np.int32), *tenths), (36, 10, 10)).astype(
        np.int32
    )


def _unevenness(picture: NDArray[np.uint8]) -> Floats:
    """Standard deviation of the mean of the channels over each pixel and its neighbours, in levels."""
    gray = picture.mean(axis=2, dtype=np.float32)
    variance = uniform_filter(gray**2, 3) - uniform_filter(gray, 3) ** 2
    return np.asarray(np.sqrt(np.maximum(variance, 0)), np.float32)


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
