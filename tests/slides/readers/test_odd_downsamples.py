"""Levels whose downsample is not whole: every reader gives the level's own pixels, and verify agrees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsitool.curate.verifying import verify_store
from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing.synthetic import draw_tissue, write_pyramid
from wsitool.tiling.run import tile_slide

_READERS = ("tiff", "openslide", "tiffslide")


def _same_patches_and_verified(
    path: Path, folder: Path, level: int, patch_size: int, readers: tuple[str, ...] = _READERS
) -> None:
    hashes = set()
    for reader in readers:
        spec = TileSpec(level=level, patch_size=patch_size, codec="raw", min_tissue=0)
        result = tile_slide(path, folder / reader, spec, reader=reader)
        report = verify_store(result.store, slide=path, samples=1000)
        assert report.sound, (reader, report.checks)
        with open_store(result.store) as store:
            hashes.add(store.read(range(len(store))).tobytes())
    assert len(hashes) == 1


@pytest.mark.parametrize("level", [0, 1])
def test_the_case(real_data: Path, tmp_path: Path, level: int) -> None:
    _same_patches_and_verified(real_data / "cases" / "slides" / "odd_downsample.tif", tmp_path, level, 64)


def test_a_real_slide_with_downsamples_of_4_02_and_8_09(real_data: Path, tmp_path: Path) -> None:
    for level in (2, 3):
        _same_patches_and_verified(real_data / "slides" / "boxes.tiff", tmp_path / str(level), level, 16)


@pytest.mark.slow
def test_a_real_slide_with_a_downsample_of_2_0005(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "slides" / "tcga-cr-7395-01a-01-ts1.svs"
    for reader in _READERS:
        spec = TileSpec(level=1, patch_size=224, stride=1500, codec="raw", min_tissue=0)
        result = tile_slide(path, tmp_path / f"t-{reader}", spec, reader=reader)
        assert verify_store(result.store, slide=path, samples=10).sound


@pytest.mark.parametrize("size", [(1201, 701), (999, 1203), (905, 903)])
def test_other_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = draw_tissue(*size, kind="adh", mpp=0.5, seed=1)
    path = write_pyramid(tmp_path / "s.svs", pixels, levels=(1, 2, 4), compression="none")
    for level in (1, 2):
        # tiffslide takes the second page of an SVS for a thumbnail.
        _same_patches_and_verified(path, tmp_path / str(level), level, 50, ("tiff", "openslide"))
        with open_slide(path, reader="openslide") as slide, tifffile.TiffFile(path) as truth:
            info = slide.info.levels[level]
            shown = slide.read_region(0, 0, level, info.width, info.height)
            assert np.array_equal(shown, truth.pages[level].asarray())


def test_verify_agrees_also_where_openslide_interpolates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a level too large to be read from afar: what `tile` wrote is what `verify` reads."""
    pixels = draw_tissue(901, 701, kind="adh", mpp=0.5, seed=1)
    path = write_pyramid(tmp_path / "s.svs", pixels, levels=(1, 2))
    monkeypatch.setattr("wsitool.slides.readers.openslide._MOST_PIXELS_FOR_EXACT", 0)
    spec = TileSpec(level=1, patch_size=50, codec="raw", min_tissue=0)
    result = tile_slide(path, tmp_path, spec, reader="openslide")
    assert verify_store(result.store, slide=path, samples=1000).sound
