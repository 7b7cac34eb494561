"""The tissue mask on real and drawn slides, and the fraction against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsitool.errors import RegionReadError
from wsitool.slides.readers import open_slide
from wsitool.slides.slide import Level, SlideInfo
from wsitool.slides.tissue import TissueMask, area_mean, detect_tissue, tissue_mask, tissue_mask_of_image
from wsitool.testing import synthetic_slide


class ArraySlide:
    """A slide in memory with the given downsamples; reads that touch `bad` (x0, y0, x1, y1) fail."""

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        *,
        mpp: float | None = 0.5,
        levels: tuple[int, ...] = (1,),
        bad: tuple[int, int, int, int] | None = None,
    ) -> None:
        self.pixels = [area_mean(pixels, factor) for factor in levels]
        self.bad, self.largest_read, self.levels_read = bad, 0, set[int]()
        self.info = SlideInfo(
            path="",
            name="array",
            reader="array",
            format="array",
            levels=tuple(
                Level(width=p.shape[1], height=p.shape[0], downsample=float(f))
                for p, f in zip(self.pixels, levels, strict=True)
            ),
            mpp=mpp,
            mpp_source=None,
            objective_power=None,
            fingerprint="",
        )

    def read_region(self, x0: int, y0: int, level: int, width: int, height: int) -> NDArray[np.uint8]:
        self.largest_read = max(self.largest_read, width * height)
        self.levels_read.add(level)
        scale = int(self.info.levels[level].downsample)
        if self.bad is not None:
            left, top, right, bottom = self.bad
            if x0 < right and y0 < bottom and x0 + width * scale > left and y0 + height * scale > top:
                raise RegionReadError("bad tile")
        x, y = x0 // scale, y0 // scale
        return self.pixels[level][y : y + height, x : x + width]


def _mask(mask: NDArray[np.bool_], downsample: tuple[float, float]) -> TissueMask:
    picture = np.zeros((*mask.shape, 3), np.uint8)
    return TissueMask(mask=mask, thumbnail=picture, downsample=downsample)


def _brute_fraction(
    mask: NDArray[np.bool_], downsample: tuple[float, float], x: int, y: int, side: float
) -> float:
    """Overlap area of the square with each tissue pixel, one by one."""
    fx, fy = downsample
    area = 0.0
    for i, j in np.argwhere(mask):
        wide = min(x + side, (j + 1) * fx) - max(x, j * fx)
        high = min(y + side, (i + 1) * fy) - max(y, i * fy)
        area += max(0.0, wide) * max(0.0, high)
    return area / side**2


@pytest.mark.parametrize("downsample", [(16.0, 16.0), (7.3, 8.1), (1.0, 1.0)])
def test_fraction_is_the_exact_area(downsample: tuple[float, float]) -> None:
    rng = np.random.default_rng(3)
    mask = rng.random((23, 31)) < 0.4
    coords = rng.integers(-20, 260, (40, 2))
    side = 44.7
    found = _mask(mask, downsample).fraction(coords, side)
    wanted = [_brute_fraction(mask, downsample, x, y, side) for x, y in coords]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_fraction_takes_width_and_height() -> None:
    mask = np.zeros((4, 4), bool)
    mask[:, 0] = True
    coords = np.array([[0, 0]])
    assert _mask(mask, (10.0, 10.0)).fraction(coords, (20.0, 40.0)) == pytest.approx([0.5])


@pytest.mark.parametrize("step", [1, 2, 3, 16])
def test_area_mean_averages_whole_and_cut_cells(step: int) -> None:
    block = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    found = area_mean(block, step)
    for i, y in enumerate(range(0, 37, step)):
        for j, x in enumerate(range(0, 50, step)):
            mean = block[y : y + step, x : x + step].reshape(-1, 3).mean(axis=0)
            np.testing.assert_allclose(found[i, j], mean, atol=0.51)


def test_holes_stay_and_specks_go() -> None:
    picture = np.full((100, 100, 3), 245, np.uint8)
    picture[20:80, 20:80] = (200, 120, 170)
    picture[40:60, 40:60] = 245
    picture[5:8, 5:8] = (200, 120, 170)
    mask, _ = detect_tissue(picture, speck_px=39)
    assert mask[30, 30] and not mask[50, 50] and not mask[6, 6]
    assert 3000 < mask.sum() < 3600


def test_blank_glass_with_noise_holds_no_tissue() -> None:
    noise = np.random.default_rng(1).normal(0, 3, (200, 200, 3))
    picture = np.clip(np.array([236, 238, 241]) + noise, 0, 255).astype(np.uint8)
    assert not detect_tissue(picture, speck_px=39)[0].any()


def test_tinted_glass_is_not_tissue() -> None:
    picture = np.full((100, 100, 3), (223, 210, 205), np.uint8)
    picture[30:60, 30:60] = (180, 110, 160)
    mask, _ = detect_tissue(picture, speck_px=39)
    assert mask.sum() == pytest.approx(900, rel=0.15)


def test_a_picture_full_of_tissue_is_not_split() -> None:
    picture = np.full((100, 100, 3), (225, 190, 210), np.uint8)
    picture[:, 50:] = (120, 40, 110)
    mask, threshold = detect_tissue(picture, speck_px=39)
    assert mask.all() and threshold <= 20


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("CMU-1-Small-Region.svs", 0.33, 0.42),
        ("breast_her2st_B4.tiff", 0.17, 0.27),
        ("tcga-cr-7395-01a-01-ts1.svs", 0.56, 0.68),
        ("kidney-48-5.tif", 0.002, 0.005),
    ],
)
def test_real_slides(real_data: Path, name: str, low: float, high: float) -> None:
    with open_slide(real_data / "slides" / name) as slide:
        found = tissue_mask(slide)
        assert low < found.mask.mean() < high
        # Independent truth for the clear cases: blank corner is glass, and most dark pixels are tissue.
        assert found.thumbnail.shape[:2] == found.mask.shape
        assert found.mask.shape[1] * found.downsample[0] >= slide.info.width


def test_real_kidney_patches_are_nearly_all_tissue(real_data: Path) -> None:
    for path in sorted((real_data / "kidney_monuseg").glob("*.png")):
        picture = np.asarray(Image.open(path).convert("RGB"))
        assert detect_tissue(area_mean(picture, 4), speck_px=39)[0].mean() > 0.75, (
            path.name
        )  # the rest is lumen


def test_drawn_slide_agrees_with_its_drawing(tmp_path: Path) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(2048, 1536), glass=0.5, seed=4)
    with open_slide(path) as slide:
        found = tissue_mask(slide, mpp=8.0)
        whole = slide.read_region(0, 0, 0, 2048, 1536)
    assert found.downsample == (16.0, 16.0)
    blank = area_mean(whole, 16).min(axis=2) > 235
    assert not found.mask[blank].mean() > 0.25
    assert found.mask[area_mean(whole, 16).min(axis=2) < 170].mean() > 0.95


def test_thumbnail_is_the_area_mean_and_reads_stay_small() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (2100, 4500, 3), dtype=np.uint8)
    slide = ArraySlide(pixels)
    found = tissue_mask(slide, mpp=8.0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.thumbnail, area_mean(pixels, 16))
    assert slide.largest_read <= 2048 * 1024


def test_the_coarsest_level_that_is_fine_enough_is_read() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    slide = ArraySlide(pixels, levels=(1, 4, 8, 32))
    found = tissue_mask(slide, mpp=8.0)  # type: ignore[arg-type]
    assert slide.levels_read == {2}
    assert found.mask.shape == (64, 64) and found.downsample == (16.0, 16.0)


def test_without_mpp_the_size_is_bounded() -> None:
    slide = ArraySlide(np.full((100, 9000, 3), 250, np.uint8), mpp=None)
    found = tissue_mask(slide)  # type: ignore[arg-type]
    assert max(found.mask.shape) <= 2250


def test_unreadable_parts_count_as_tissue_and_are_counted() -> None:
    slide = ArraySlide(np.full((2048, 4096, 3), 250, np.uint8), bad=(3000, 1200, 3010, 1210))
    found = tissue_mask(slide)  # type: ignore[arg-type]
    assert 0 < found.unreadable <= (512 // 16) ** 2
    assert found.mask[1205 // 16, 3005 // 16]
    assert found.mask.sum() == found.unreadable


def test_a_slide_without_one_readable_pixel_is_an_error() -> None:
    slide = ArraySlide(np.full((300, 300, 3), 250, np.uint8), bad=(0, 0, 300, 300))
    with pytest.raises(RegionReadError, match="bad tile"):
        tissue_mask(slide)  # type: ignore[arg-type]


def test_image_rule_is_exactly_the_ink_limit() -> None:
    picture = np.full((2, 2, 3), 230, np.uint8)
    picture[0, 0] = (230, 214, 230)
    picture[0, 1] = (230, 215, 230)
    found = tissue_mask_of_image(picture)
    np.testing.assert_array_equal(found.mask, [[True, False], [False, False]])
