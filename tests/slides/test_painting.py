"""Shares of patches in painted regions, against uniting everything and measuring it."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from wsitool.slides.annotations import LabelMap, Region, label_patches
from wsitool.slides.painting import cover_of_centers, cover_of_patches


def _blob(rng: np.random.Generator, vertices: int, radius: float) -> shapely.Geometry:
    angle = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    reach = radius * rng.uniform(0.3, 1, vertices)
    center = rng.uniform(0, 1000, 2)
    ring = center + reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    hole = shapely.Point(center).buffer(0.2 * radius)
    return shapely.Polygon(ring).difference(hole)


@pytest.mark.parametrize("seed", range(2))
def test_shares_equal_those_of_the_united_layers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    areas = [_blob(rng, 40, 150) for _ in range(40)] + [_blob(rng, 2000, 500)]  # the last is cut in pieces
    layers = [*rng.integers(0, 3, 40).tolist(), seed % 3]
    coords = np.stack(np.meshgrid(np.arange(-60, 1000, 97), np.arange(-60, 1000, 101)), axis=2).reshape(-1, 2)
    cover = cover_of_patches(areas, layers, coords, 50.0)
    found = np.zeros((3, len(coords)))
    np.add.at(found, (cover.layer, cover.row), cover.share)
    boxes = shapely.box(*coords.T, *(coords + 50).T)
    above = shapely.Polygon()
    at_center = np.full(len(coords), -1)
    for layer in (2, 1, 0):
        area = shapely.union_all([a for a, b in zip(areas, layers, strict=True) if b == layer])
        expected = shapely.area(shapely.intersection(area.difference(above), boxes)) / 50**2
        np.testing.assert_allclose(found[layer], expected, atol=1e-9)
        inside = shapely.contains_xy(area, coords + 25)
        at_center[(at_center < 0) & inside] = layer
        above = above.union(area)
    center = cover_of_centers(areas, layers, coords, 50.0)
    np.testing.assert_array_equal(np.isin(np.arange(len(coords)), center.row), at_center >= 0)
    np.testing.assert_array_equal(center.layer, at_center[center.row])


def test_two_layers_of_one_class_add_up_and_an_eraser_takes_away() -> None:
    left, right = (
        Region(names=(n,), area=shapely.box(*b)) for n, b in (("l", (0, 0, 4, 10)), ("r", (4, 0, 7, 10)))
    )
    eraser = Region(names=("e",), area=shapely.box(0, 0, 10, 3))
    label_map = LabelMap(entries=(("l", "a"), ("r", "a"), ("e", None)))
    coords = np.array([[0, 0]])
    assert label_patches([left, right], label_map, ("a",), coords, 10.0, min_share=0.7).tolist() == [0]
    erased = [left, right, eraser]
    assert label_patches(erased, label_map, ("a",), coords, 10.0, min_share=0.5).tolist() == [-1]
    assert label_patches(erased, label_map, ("a",), coords, 10.0, min_share=0.49).tolist() == [0]


def test_a_class_for_every_region_needs_no_memory_for_each_with_each_patch() -> None:
    regions = [Region(names=(str(i),), area=shapely.box(i, 0, i + 1, 1)) for i in range(800)]
    classes = tuple(str(i) for i in range(800))
    label_map = LabelMap(entries=tuple((name, name) for name in classes))
    coords = np.array([(x, 0) for x in range(800)])
    labels = label_patches(regions, label_map, classes, coords, 1.0)
    np.testing.assert_array_equal(labels, np.arange(800))
