"""The outlines of a mask, from which the same mask comes back (`masks.painted`)."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from skimage.measure import find_contours

__all__ = ["outlines_of"]


def outlines_of(mask: NDArray[np.bool_], downsample: tuple[float, float]) -> list[shapely.Polygon]:
    """The areas of `mask` (h, w) with their holes, in level-0 pixels, from top to bottom.

    Half way between the centers of pixels inside and outside (marching squares, Lorensen and Cline 1987),
    so that no center lies on an edge and pixels that touch by a corner stay apart.
    """
    # A margin, so that areas at the edge are closed.
    padded = np.pad(mask, 1).astype(np.float32)
    contours = find_contours(padded, 0.5, fully_connected="low")
    if not contours:
        return []
    # From rows and columns of centers, beyond a margin of one, to pixels' own frame (x, y).
    rings = [shapely.linearrings((ring[:, ::-1] - 0.5) * downsample) for ring in contours if len(ring) > 3]
    # Even-odd: a ring inside another is a hole, one inside that an island.
    areas = shapely.get_parts(shapely.build_area(shapely.geometrycollections(rings)))
    # What lies on a straight line is left out, which changes no area.
    smooth = shapely.simplify(areas, 0)
    bounds = shapely.bounds(smooth)
    return [smooth[index] for index in np.lexsort((bounds[:, 0], bounds[:, 1]))]
