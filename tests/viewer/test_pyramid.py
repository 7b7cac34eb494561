from __future__ import annotations

from pathlib import Path

import bench_viewer
import numpy as np
import openslide
import pytest

from wsitool.slides.readers import open_slide
from wsitool.store import jpeg
from wsitool.testing.synthetic import write_pyramid
from wsitool.viewer.pyramid import Pyramid


def _whole(pyramid: Pyramid, level: int) -> np.ndarray:
    view = pyramid.levels[level]
    picture = np.zeros((view.height, view.width, 3), np.uint8)
    for y in range(0, view.height, view.tile_height):
        for x in range(0, view.width, view.tile_width):
            tile = jpeg.decode(pyramid.tile(level, x // view.tile_width, y // view.tile_height))
            part = picture[y : y + view.tile_height, x : x + view.tile_width]
            part[:] = tile[: part.shape[0], : part.shape[1]]
    return picture


def test_jpeg_tiles_are_the_scanners_own_and_openslides_pixels(real_data: Path) -> None:
    path = real_data / "slides" / "CMU-1-Small-Region.svs"
    with openslide.OpenSlide(path) as truth:
        expected = np.asarray(truth.read_region((0, 0), 0, truth.dimensions).convert("RGB"))
    pyramid = Pyramid(open_slide(path))
    assert np.array_equal(_whole(pyramid, 0), expected)
    assert pyramid.tile(0, 1, 2) == pyramid.slide.tiles(0).jpeg(1, 2)
    # One level in the file; halves above it, up to one that a page shows as a whole.
    assert [(view.downsample, view.shrink) for view in pyramid.levels] == [(1, 1), (2, 2), (4, 4)]
    assert max(pyramid.levels[-1].width, pyramid.levels[-1].height) <= 1024
    half = expected[: 2967 // 2 * 2, : 2220 // 2 * 2].reshape(1483, 2, 1110, 2, 3).mean(axis=(1, 3))
    assert (
        np.abs(_whole(pyramid, 1) - half).mean() < 5
    )  # shrunk by the decoder, JPEG at 85 with half the colour
    pyramid.close()


@pytest.mark.parametrize("compression", ["none", "jpeg2000"])
def test_levels_that_a_slide_lacks_are_exact_halves(tmp_path: Path, compression: str) -> None:
    ramp = np.linspace(0, 255, 1500 * 2600, dtype=np.float32).reshape(1500, 2600)
    pixels = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2).astype(np.uint8)
    path = write_pyramid(tmp_path / "a.svs", pixels, levels=(1,), compression=compression, tile=256)  # type: ignore[arg-type]
    pyramid = Pyramid(open_slide(path))
    assert [view.shrink for view in pyramid.levels] == [1, 2, 4]
    quarter = pixels[:, :2600].reshape(375, 4, 650, 4, 3).mean(axis=(1, 3))
    # JPEG at 85 of a smooth picture, and two roundings.
    assert np.abs(_whole(pyramid, 2) - quarter).max() < 12
    pyramid.close()


def test_gaps_are_filled_and_native_levels_kept(tmp_path: Path) -> None:
    pixels = np.full((4096, 4096, 3), 200, np.uint8)
    path = write_pyramid(tmp_path / "a.svs", pixels, levels=(1, 4, 16))
    pyramid = Pyramid(open_slide(path))
    assert [(view.native, view.shrink) for view in pyramid.levels] == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]
    pyramid.close()


@pytest.mark.parametrize("place", [(-1, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, -1)])
def test_tiles_that_are_not_there(tmp_path: Path, place: tuple[int, int, int]) -> None:
    path = write_pyramid(tmp_path / "a.svs", np.full((300, 300, 3), 200, np.uint8), levels=(1,))
    pyramid = Pyramid(open_slide(path))
    with pytest.raises(IndexError, match="There is no"):
        pyramid.tile(*place)
    pyramid.close()


def test_the_benchmark_runs(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.svs", np.full((512, 512, 3), 200, np.uint8), levels=(1,))
    cost = bench_viewer.measure(path, most=4)
    assert bench_viewer.http_rate(path, most=4) > 0
    assert set(cost) == {"wsitool", "openslide"} and all(seconds >= 0 for seconds in cost.values())


def test_jpeg_tiles_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pyramid(tmp_path / "a.svs", np.full((512, 512, 3), 200, np.uint8), levels=(1,))
    pyramid = Pyramid(open_slide(path))
    monkeypatch.setattr(type(pyramid.slide.tiles(0)), "decode", None)
    assert len({pyramid.tile(0, column, row) for column in range(2) for row in range(2)}) == 1
    pyramid.close()
