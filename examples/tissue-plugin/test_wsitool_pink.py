"""The detector keeps wsitool's contract, and its hues are the standard library's."""

from __future__ import annotations

import colorsys

import numpy as np
from wsitool_pink import DETECTOR, detect_pink

from wsitool.testing import check_tissue


def test_conformance() -> None:
    assert [f"{each.name}: {each.message}" for each in check_tissue(DETECTOR) if not each.passed] == []


def test_limits_hold_for_the_hues_of_colorsys() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    mask = detect_pink(rgb, mpp=None, unread=np.zeros(rgb.shape[:2], bool))
    for pixel, found in zip(rgb.reshape(-1, 3).tolist(), mask.ravel().tolist(), strict=True):
        hue, saturation, _ = colorsys.rgb_to_hsv(*(value / 255 for value in pixel))
        assert found == (saturation >= 0.07 and (hue >= 0.66 or hue <= 0.03)), pixel


def test_stains_are_tissue_and_glass_and_pen_are_not() -> None:
    colors = np.array(
        [[[160, 90, 170], [230, 150, 190], [244, 243, 244], [30, 160, 60], [20, 20, 20]]], np.uint8
    )
    mask = detect_pink(colors, mpp=8.0, unread=np.zeros((1, 5), bool))
    assert mask.tolist() == [[True, True, False, False, False]]
