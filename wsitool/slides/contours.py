"""The outlines of a mask, from which the same mask comes back (`masks.painted`)."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import label
from skimage.measure import find_contours

__all__ = ["outlines_of"]

Ring = NDArray[np.float64]


def outlines_of(mask: NDArray[np.bool_], downsample: tuple[float, float]) -> list[shapely.Polygon]:
    """The areas of `mask` (h, w) with their holes, in level-0 pixels, from top to bottom.

    Half way between the centers of pixels inside and outside (marching squares, Lorensen and Cline 1987),
    so that no center lies on an edge and pixels that touch by a corner stay apart.
    """
    # A margin, so that areas at the edge are closed.
    padded = np.pad(mask, 1)
    # Which rings belong together is told by the component at their side: to look for it in the geometry costs
    # more than all the rest where tissue is full of holes.
    component, number = label(padded)
    shells: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    for contour in find_contours(padded.astype(np.float32), 0.5, fully_connected="low"):
        first, second = np.floor(contour[0]).astype(int), np.ceil(contour[0]).astype(int)
        own = int(component[tuple(first)] or component[tuple(second)])
        # From rows and columns of centers, beyond a margin of one, to pixels' own frame (x, y).
        ring = (_bends(contour)[:, ::-1] - 0.5) * downsample
        if _turns_right(ring):
            shells[own] = ring
        else:
            holes.setdefault(own, []).append(ring)
    areas = [shapely.Polygon(shells[own], holes.get(own, ())) for own in range(1, number + 1)]
    return sorted(areas, key=lambda area: (area.bounds[1], area.bounds[0]))


def _bends(ring: Ring) -> Ring:
    """A closed ring (n, 2) without the points on straight lines, but for its ends."""
    steps = np.diff(ring, axis=0)
    bends = (steps[1:] != steps[:-1]).any(axis=1)
    return np.asarray(ring[np.concatenate([[True], bends, [True]])])


def _turns_right(ring: Ring) -> bool:
    """Whether a closed ring (n, 2) goes round its area clockwise, as seen where y grows downwards."""
    x, y = (ring - ring[0]).T
    return bool(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0)
