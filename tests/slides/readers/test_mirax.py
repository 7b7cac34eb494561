"""MIRAX slides, of which no file is at hand: written after OpenSlide's description and read by it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from mirax import write_mirax

from wsitool.slides.readers import fingerprint, open_slide
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing.synthetic import draw_tissue
from wsitool.tiling.run import tile_slide

_SIDE, _GRID = 128, (4, 2)
_RGB = draw_tissue(_SIDE * _GRID[0], _SIDE * _GRID[1], kind="adh", mpp=0.5, seed=4)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two levels of images; the scanner left the last one of level 0 out."""
    levels = [
        {
            (x // _SIDE, y // _SIDE): simplejpeg.encode_jpeg(pixels[y : y + _SIDE, x : x + _SIDE].copy())
            for y in range(0, pixels.shape[0], _SIDE)
            for x in range(0, pixels.shape[1], _SIDE)
        }
        for pixels in (_RGB, _RGB[::2, ::2])
    ]
    del levels[0][3, 1]
    return write_mirax(tmp_path_factory.mktemp("mirax") / "m.mrxs", levels, side=_SIDE, grid=_GRID, mpp=0.25)


def test_pixels_are_the_decoders_and_what_was_not_scanned_is_white(slide: Path) -> None:
    with open_slide(slide) as opened:
        info = opened.info
        assert (info.reader, info.format, info.mpp, info.mpp_source) == ("openslide", "mirax", 0.25, "file")
        assert [(level.width, level.height) for level in info.levels] == [(512, 256), (256, 128)]
        shown = opened.read_region(0, 0, 0, 512, 256)
        for y in (0, 128):
            for x in range(0, 512, 128):
                truth = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(_RGB[y : y + 128, x : x + 128].copy()))
                if (x, y) == (384, 128):
                    truth = np.full_like(truth, 255)
                assert np.array_equal(shown[y : y + 128, x : x + 128], truth), (x, y)


def test_patches_are_cut_of_whole_images_each_read_once(slide: Path, tmp_path: Path) -> None:
    spec = TileSpec(level=0, patch_size=100, codec="raw", min_tissue=0)
    result = tile_slide(slide, tmp_path, spec)
    assert (result.kept, result.needed_tiles, result.decoded_tiles) == (10, 8, 8)
    with open_store(result.store) as store, open_slide(slide) as opened:
        for patch, (x, y) in zip(store.read(range(len(store))), store.coords.tolist(), strict=True):
            assert np.array_equal(patch, opened.read_region(x, y, 0, 100, 100))


def test_its_data_are_part_of_its_content(slide: Path, tmp_path: Path) -> None:
    """Slides whose labels were taken out have files of one content, and are not one slide."""
    copy = tmp_path / "m.mrxs"
    shutil.copytree(slide.with_suffix(""), copy.with_suffix(""))
    shutil.copy(slide, copy)
    assert fingerprint(copy) == fingerprint(slide)
    data = copy.with_suffix("") / "Data0000.dat"
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    assert fingerprint(copy) != fingerprint(slide)
