"""From a mask to outlines and back: the same pixels, whatever touches, encloses or lies at the edge."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from wsitool.slides.contours import outlines_of
from wsitool.slides.masks import painted
from wsitool.slides.outlines import Region


def _back(mask: np.ndarray, downsample: float) -> np.ndarray:
    regions = tuple(Region(names=("t",), area=area) for area in outlines_of(mask, (downsample, downsample)))
    return painted(regions, mask.shape, downsample)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("downsample", [1.0, 8.02, 16.0])
def test_the_same_mask_comes_back(share: float, downsample: float) -> None:
    mask = np.random.default_rng(int(100 * share)).random((37, 29)) < share
    assert (_back(mask, downsample) == mask).all()


def test_areas_holes_and_islands_are_polygons_in_level_0_pixels() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:18, 2:18] = True
    mask[5:15, 5:15] = False
    mask[8:12, 8:12] = True
    ring, island = outlines_of(mask, (10.0, 10.0))
    assert len(ring.interiors) == 1 and len(island.interiors) == 0
    assert ring.bounds == (20, 20, 180, 180) and island.bounds == (80, 80, 120, 120)
    assert shapely.is_valid([ring, island]).all()
    # Half a pixel is cut off each corner and no more: nothing else may have been smoothed.
    assert ring.area == pytest.approx(100 * (256 - 100), rel=0.01)


def test_a_mask_without_tissue_has_no_outline() -> None:
    assert outlines_of(np.zeros((5, 5), bool), (4.0, 4.0)) == []


def test_straight_sides_take_no_vertices() -> None:
    (square,) = outlines_of(np.ones((300, 300), bool), (8.0, 8.0))
    assert len(square.exterior.coords) <= 9
