"""Quality scores: defects painted on real-looking tissue are found, real tissue is not mistaken for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from wsitool.errors import UsageError
from wsitool.slides.grid import plan_grid
from wsitool.slides.limits import decide
from wsitool.slides.quality import ink_masks, score_candidates
from wsitool.slides.readers import open_slide
from wsitool.slides.spec import QualityThresholds, TileSpec
from wsitool.slides.tissue import area_mean, tissue_mask
from wsitool.testing import draw_tissue
from wsitool.testing.synthetic import write_pyramid
from wsitool.tiling.candidates import find_candidates
from wsitool.tiling.sharpness import laplacian_variance, sharpness

CORNERS = np.array([(x, y) for y in (0, 512, 1024) for x in (0, 512, 1024)], np.int64)


def _tissue() -> NDArray[np.uint8]:
    """Tissue with some glass, so that the white of the glass is known."""
    return draw_tissue(1536, 1536, kind="benign", mpp=0.5, seed=1, glass=0.15)


def _scores(path: Path, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    with open_slide(write_pyramid(path, pixels, levels=(1, 4))) as slide:
        mask = tissue_mask(slide)
        return {"tissue": mask.fraction(CORNERS, 512.0)} | score_candidates(mask, CORNERS, 512.0)


@pytest.mark.parametrize(
    ("score", "color"),
    [
        ("pen", (40, 150, 70)),
        ("pen", (20, 120, 190)),
        ("pen", (225, 20, 25)),
        ("near_black", (22, 20, 24)),
        ("near_white", (250, 250, 250)),
    ],
)
def test_paint_is_found_where_it_is(tmp_path: Path, score: str, color: tuple[int, int, int]) -> None:
    clean = _tissue()
    painted = clean.copy()
    painted[512:768, 512:1024] = color  # the upper half of the patch in the middle
    before, after = _scores(tmp_path / "a.svs", clean), _scores(tmp_path / "b.svs", painted)
    assert after[score][4] >= 0.45
    if score != "near_white":
        assert after[score][4] <= 0.55
        assert before[score].max() < 0.02
        # Of 32 pixels one around a stroke counts for ink, too.
        np.testing.assert_allclose(np.delete(after[score], 4), np.delete(before[score], 4), atol=0.04)


def test_a_fold_is_tissue_stained_twice(tmp_path: Path) -> None:
    pixels = _tissue()
    doubled = (pixels[1024:, :512].astype(float) / 255) ** 2.6 * 255
    pixels[1024:, :512] = doubled.astype(np.uint8)
    scores = _scores(tmp_path / "a.svs", pixels)
    assert scores["fold"].argmax() == 6 and scores["fold"][6] > 3 * np.delete(scores["fold"], 6).max()


def test_sharpness_is_the_variance_of_the_laplacian(tmp_path: Path) -> None:
    pixels = _tissue()
    blurred = ndimage.gaussian_filter(pixels, (8, 8, 0))
    pixels[:512, 512:1024] = blurred[:512, 512:1024]
    path = write_pyramid(tmp_path / "a.svs", pixels, levels=(1, 4))
    with open_slide(path) as slide:
        mask = tissue_mask(slide)
        found = sharpness(slide, CORNERS, 512.0, mask.fraction(CORNERS, 512.0) > 0)
        level = slide.read_region(0, 0, 1, 384, 384)
    gray = level @ np.array([0.299, 0.587, 0.114])
    laplacian = ndimage.laplace(gray)
    wanted = [laplacian[y + 1 : y + 127, x + 1 : x + 127].var() for x, y in CORNERS // 4]
    np.testing.assert_allclose(found, wanted, rtol=1e-3)
    assert found.argmin() == 1 and found[1] < 0.2 * np.delete(found, 1).min()


def test_sharpness_of_a_flat_slide_only_when_asked_and_nan_without_tissue(tmp_path: Path) -> None:
    pixels = _tissue()
    pixels[:, 512:] = 245
    for levels, limits, measured in (
        ((1,), (), False),
        ((1,), QualityThresholds(min_sharpness=1.0).limits, True),
        ((1, 4), (), True),
    ):
        spec = TileSpec(patch_size=512, level=0, limits=limits)
        with open_slide(write_pyramid(tmp_path / "a.svs", pixels, levels=levels)) as slide:
            found = find_candidates(slide, plan_grid(slide.info, spec), tissue_mask(slide), spec)
        assert ("sharpness" in found.scores) == measured
        if measured:
            sharp = found.scores["sharpness"]
            assert np.isfinite(sharp[[0, 3, 6]]).all() and np.isnan(sharp[[2, 5, 8]]).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_sharpness_where_the_decoder_shrinks_is_near_the_exact_one(tmp_path: Path, threads: int) -> None:
    pixels = _tissue()
    with open_slide(write_pyramid(tmp_path / "a.svs", pixels, levels=(1,))) as slide:
        found = sharpness(slide, CORNERS, 512.0, np.ones(9, bool), threads=threads)
    small = area_mean(pixels, 4)
    wanted = laplacian_variance(np.stack([small[y : y + 128, x : x + 128] for x, y in CORNERS // 4]))
    np.testing.assert_allclose(found, wanted, rtol=0.1)
    assert np.corrcoef(found, wanted)[0, 1] > 0.99


def test_unreadable_pixels_have_no_sharpness(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.svs", _tissue(), levels=(1, 4))
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        at, count = tiff.pages[1].dataoffsets[0], tiff.pages[1].databytecounts[0]
    data[at : at + count] = bytes(count)
    path.write_bytes(data)
    with open_slide(path) as slide:
        found = sharpness(slide, CORNERS, 512.0, np.ones(9, bool))
    assert np.isnan(found[[0, 1, 3, 4]]).all()
    assert np.isfinite(found[8])


def test_first_reason_in_the_order_of_the_limits() -> None:
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    scores = {
        "near_black": np.array([1, 0], np.float32),
        "near_white": zeros,
        "ink": ones,
        "fold": zeros,
        "sharpness": np.array([9, np.nan], np.float32),
    }
    reason, reasons = decide(scores, QualityThresholds(min_sharpness=5.0).limits)
    assert [reasons[i] for i in reason] == ["near black", "pen"]
    off = QualityThresholds(max_pen=None, max_fold=None, max_white=None, max_black=None)
    assert off.limits == ()
    # An unknown sharpness rejects nothing: that pixels cannot be read is found out when they are.
    reason, _ = decide(scores, replace(off, min_sharpness=5.0).limits)
    assert reason.tolist() == [0, 0]


@pytest.mark.parametrize("values", [{"max_pen": 1.5}, {"max_fold": -0.1}, {"min_sharpness": -1.0}])
def test_impossible_thresholds(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="--"):
        QualityThresholds(**values)


@pytest.mark.parametrize(
    ("name", "side", "most"),
    [
        ("CMU-1-Small-Region.svs", 224, 0),
        ("tcga-cr-7395-01a-01-ts1.svs", 224, 0),
        ("breast_her2st_B4.tiff", 162, 40),
    ],
)
def test_real_tissue_is_hardly_rejected(real_data: Path, name: str, side: int, most: int) -> None:
    """At most the patches of the her2st section that show nothing but pink glare on glass."""
    with open_slide(real_data / "slides" / name) as slide:
        mask = tissue_mask(slide)
        y, x = np.mgrid[0 : slide.info.height - side : side, 0 : slide.info.width - side : side]
        coords = np.stack([x.ravel(), y.ravel()], axis=1)
        coords = coords[mask.fraction(coords, side) >= 0.3]
        scores = score_candidates(mask, coords, side)
    reason, reasons = decide(scores, QualityThresholds().limits)
    assert (reason > 0).sum() <= most
    assert {reasons[i] for i in reason} <= {"kept", "near white"}


def test_masks_of_a_blank_slide_are_quiet(real_data: Path) -> None:
    with open_slide(real_data / "slides" / "kidney-48-5.tif") as slide:
        masks = ink_masks(tissue_mask(slide))
    assert all(masks[name].mean() < 0.001 for name in ("pen", "fold"))
