"""OME and Philips pyramids, made here as no file is at hand, against tifffile and OpenSlide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from vendor_pyramids import write_ome, write_philips

from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.tiling.run import tile_slide


@pytest.mark.parametrize("compression", ["jpeg", "zlib"])
def test_ome_pyramid_in_subifds(tmp_path: Path, compression: str) -> None:
    path = write_ome(tmp_path / "o.ome.tif", compression=compression)
    with open_slide(path) as slide, tifffile.TiffFile(path) as truth:
        assert (slide.info.reader, slide.info.mpp, slide.info.mpp_source) == ("tiff", 0.25, "file")
        sizes = [(level.width, level.height) for level in slide.info.levels]
        assert sizes == [(1100, 900), (550, 450), (275, 225)]
        for i, (width, height) in enumerate(sizes):
            pixels = truth.series[0].levels[i].asarray()
            assert np.array_equal(slide.read_region(0, 0, i, width, height), pixels)
    _assert_patches(path, tmp_path)
    with openslide.OpenSlide(path) as shown, open_slide(path) as slide:  # it knows the first level only
        region = np.asarray(shown.read_region((300, 200), 0, (500, 400)))[..., :3]
        assert np.array_equal(slide.read_region(300, 200, 0, 500, 400), region)


def test_philips_levels_have_their_true_size(tmp_path: Path) -> None:
    path, true = write_philips(tmp_path / "p.tiff")
    with open_slide(path) as slide, tifffile.TiffFile(path) as pages, openslide.OpenSlide(path) as shown:
        assert shown.properties["openslide.vendor"] == "philips"
        assert slide.info.reader == "tiff" and slide.info.format.startswith("Philips TIFF")
        assert slide.info.mpp == pytest.approx(float(shown.properties["openslide.mpp-x"])) == 0.25
        sizes = [(level.width, level.height) for level in slide.info.levels]
        assert sizes == list(shown.level_dimensions) == [level.shape[1::-1] for level in true]
        assert [level.downsample for level in slide.info.levels] == pytest.approx(shown.level_downsamples)
        for i, (width, height) in enumerate(sizes):
            ours = slide.read_region(0, 0, i, width, height)
            assert np.array_equal(ours, pages.pages[i].asarray()[:height, :width])
            assert np.array_equal(ours, np.asarray(shown.read_region((0, 0), i, (width, height)))[..., :3])
            assert np.abs(ours.astype(int) - true[i]).mean() < 6  # JPEG of the pixels that were put there
    _assert_patches(path, tmp_path)


def _assert_patches(path: Path, folder: Path) -> None:
    """Every patch of every level, the last column and row among them, is tifffile's."""
    with tifffile.TiffFile(path) as truth:
        levels = [level.asarray() for level in truth.series[0].levels]
    for i, pixels in enumerate(levels):
        spec = TileSpec(level=i, patch_size=60, codec="raw", min_tissue=0)
        result = tile_slide(path, folder / f"level{i}", spec)
        assert result.kept == (pixels.shape[1] // 60) * (pixels.shape[0] // 60)
        with open_store(result.store) as store:
            scale = np.array(levels[0].shape[1::-1]) / np.array(pixels.shape[1::-1])
            corners = np.rint(store.coords / scale).astype(int).tolist()
            for patch, (x, y) in zip(store.read(range(len(store))), corners, strict=True):
                assert np.array_equal(patch, pixels[y : y + 60, x : x + 60])
