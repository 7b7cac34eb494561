"""Squares of neighbouring patches: what an order keeps together, and a slide is decoded by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsitool.store.schema import StoreMeta

__all__ = ["SQUARES_MIXED", "region_bytes", "region_side", "regions_of"]

SQUARES_MIXED = 16
"""Squares that an order of neighbours mixes its patches from."""

_SIDE_PX = 3584
"""Of a square, in pixels of the patches: 16 patches of 224, 39 MB. The smaller, the more of its tiles it
shares with squares beside it, which are decoded at another time."""


def region_side(patch_size: int) -> int:
    """Patches along the side of a square, so that its pixels take the same memory whatever their size."""
    return max(1, _SIDE_PX // patch_size)


def region_bytes(patch_size: int) -> int:
    """What the pixels of a whole square take."""
    return 3 * (region_side(patch_size) * patch_size) ** 2


def regions_of(coords: NDArray[np.int64], meta: StoreMeta) -> NDArray[np.int64]:
    """The square (N,) of each patch of a store at level-0 `coords` (N, 2); numbers without gaps, from 0.

    A function of the places on the grid alone, so that a store and its slide have the same squares.
    """
    # Rounded: a stride between two levels' pixels is no whole number of level-0 ones.
    places = np.rint(coords / meta.stride_level0).astype(np.int64) // region_side(meta.patch_size)
    keys = places[:, 1] * (int(places[:, 0].max(initial=0)) + 1) + places[:, 0]
    numbers: NDArray[np.int64] = np.unique(keys, return_inverse=True)[1].astype(np.int64)
    return numbers
