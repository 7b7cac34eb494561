from pathlib import Path

import numpy as np
from matplotlib.image import imread

from wsitool.report.heatmap import draw_heatmap, heat


def test_values_lie_where_their_patches_are() -> None:
    coords = np.array([[0, 0], [100, 0], [0, 100]])
    found = heat((30, 40), (10.0, 10.0), coords, 100.0, np.array([0.1, 0.2, 0.3]))
    assert np.allclose(found[:10, :10], 0.1) and np.allclose(found[:10, 10:20], 0.2)
    assert np.allclose(found[10:20, :10], 0.3)
    assert np.isnan(found[:, 20:]).all() and np.isnan(found[20:]).all()


def test_overlapping_patches_are_averaged_and_small_ones_seen() -> None:
    coords = np.array([[0, 0], [0, 0], [50, 50]])
    found = heat((10, 10), (10.0, 10.0), coords, 3.0, np.array([0.0, 1.0, 0.7]))
    assert found[0, 0] == 0.5 and found[5, 5] == 0.7 and np.isfinite(found).sum() == 2


def test_picture_shows_hot_and_cold(tmp_path: Path) -> None:
    values = np.full((50, 100), np.nan)
    values[:, :40], values[:, 60:] = 0.02, 0.98
    draw_heatmap(tmp_path / "h.png", np.full((50, 100, 3), 230, np.uint8), values, title="t")
    drawn = imread(tmp_path / "h.png")[..., :3]
    middle = drawn[drawn.shape[0] // 2]
    red_minus_blue = middle[:, 0] - middle[:, 2]
    inner = red_minus_blue[: int(0.85 * len(red_minus_blue))]
    assert inner.argmin() < len(inner) * 0.5 < inner.argmax()
