"""What JPEG costs: which color resolution a source has, and how far stored patches are from its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import RegionReadError
from wsitool.slides.readers.tiles import TileLevel
from wsitool.slides.spec import Subsampling
from wsitool.store import jpeg
from wsitool.store.schema import Sampling

__all__ = ["Fidelity", "decibels_in_words", "pooled", "stored_sampling"]

# The headers that are looked at: the first tiles of a damaged slide may be gone.
_PROBED_TILES = 8
# Of JPEG's kinds those that have no more than a color for four pixels; gray has none.
_COARSE = ("420", "411", "Gray")


def stored_sampling(asked: Subsampling, tiles: TileLevel) -> Sampling:
    """What `asked` means for patches of this level: of "auto" 4:2:0 only where its own tiles have no more.

    A level that does not give its tiles as JPEG (JPEG 2000, lossless, or read by another library) may have a
    color for each pixel.
    """
    if asked != "auto":
        return asked
    if not tiles.passthrough:
        return "444"
    columns = -(-tiles.width // tiles.tile_width)
    rows = -(-tiles.height // tiles.tile_height)
    for place in np.linspace(0, columns * rows - 1, _PROBED_TILES).astype(int).tolist():
        try:
            return (
                "420" if jpeg.sampling_of(tiles.jpeg(place % columns, place // columns)) in _COARSE else "444"
            )
        except (RegionReadError, ValueError):
            continue
    return "444"


@dataclass(kw_only=True)
class Fidelity:
    """How far JPEG patches are from the pixels they were made of, over all that were looked at."""

    squares: float = 0.0
    values: int = 0

    def look(self, pixels: NDArray[np.uint8], stream: bytes | memoryview) -> None:
        """Compare (H, W, 3) pixels with the JPEG that was made of them."""
        stored = jpeg.decode(bytes(stream))
        self.squares += float(np.square(stored.astype(np.float32) - pixels).sum())
        self.values += pixels.size

    @property
    def decibels(self) -> float | None:
        """The peak signal-to-noise ratio of all in one, rounded; None where nothing was looked at."""
        if not self.values:
            return None
        error = max(self.squares / self.values, 1e-6)  # 108 dB: an even color has no error at all
        return round(10 * float(np.log10(255**2 / error)), 1)


def pooled(decibels: Sequence[float]) -> float | None:
    """One figure for several of as many values each: that of their mean error; None of none."""
    if not decibels:
        return None
    return round(-10 * float(np.log10(np.mean(10 ** (-np.array(decibels) / 10)))), 1)


def decibels_in_words(decibels: Sequence[float]) -> str:
    """ "41.0 dB", or from the lowest to the highest of several."""
    low, high = min(decibels), max(decibels)
    return f"{low:.1f} dB" if low == high else f"{low:.1f} to {high:.1f} dB"
