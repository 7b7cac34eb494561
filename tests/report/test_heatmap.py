from pathlib import Path

import numpy as np
from PIL import Image

from wsitool.report.heatmap import draw_called, draw_heatmap, heat, heat_colors


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


def _drawn(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture.convert("RGB")).astype(int)


def test_picture_shows_hot_and_cold_and_leaves_the_rest(tmp_path: Path) -> None:
    values = np.full((50, 100), np.nan)
    values[:, :40], values[:, 60:] = 0.02, 0.98
    draw_heatmap(tmp_path / "h.jpg", np.full((50, 100, 3), (230, 150, 190), np.uint8), values, title="t")
    middle = _drawn(tmp_path / "h.jpg")[160]
    cold, free, hot = middle[128], middle[320], middle[512]
    assert cold[2] > cold[0] + 40 and hot[0] > hot[2] + 40  # blue and yellow
    assert hot.sum() > cold.sum() + 150
    assert np.abs(free - (230, 150, 190)).max() < 12  # the slide's own color


def test_the_map_grows_lighter_and_its_ends_are_told_apart_without_red_or_green() -> None:
    colors = heat_colors().astype(float)
    light = (colors / 255) ** 2.2 @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(light) >= -1e-3).all() and light[-1] > light[0] + 0.5
    # Blue against yellow, which those see who do not tell red from green.
    opponent = colors[:, 2] - colors[:, :2].mean(axis=1)
    assert opponent[0] > 60 and opponent[-1] < -60


def test_tissue_is_seen_beneath(tmp_path: Path) -> None:
    tissue = np.full((64, 64, 3), 235, np.uint8)
    tissue[:, 32:] = (120, 60, 110)
    draw_heatmap(tmp_path / "h.jpg", tissue, np.full((64, 64), 0.7), title="t")
    drawn = _drawn(tmp_path / "h.jpg")[320]
    assert drawn[100].sum() > drawn[540].sum() + 60


def test_the_called_class_has_its_color_and_nothing_where_no_patch_is(tmp_path: Path) -> None:
    called = np.full((40, 40), -1)
    called[:, :13], called[:, 26:] = 0, 1
    draw_called(tmp_path / "c.jpg", np.full((40, 40, 3), 200, np.uint8), called, ("a", "b"), title="t")
    drawn = _drawn(tmp_path / "c.jpg")[300]
    assert drawn[100][2] > drawn[100][0] + 60 and drawn[540][0] > drawn[540][2] + 60
    assert np.ptp(drawn[320]) < 12


def test_no_picture_is_larger_than_it_may_be(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1260, 1260, 3), np.uint8)
    draw_heatmap(tmp_path / "n.jpg", noise, np.full((1260, 1260), np.nan), title="<script>" * 50)
    assert (tmp_path / "n.jpg").stat().st_size <= 200_000
    assert _drawn(tmp_path / "n.jpg").shape[0] > 300
