"""Deep Zoom images as libvips writes them, against libvips' own pixels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from wsitool.curate.verifying import verify_store
from wsitool.errors import RefusedSlideError, RegionReadError, SlideError, UnsupportedSlideError
from wsitool.slides.reader_registry import READERS
from wsitool.slides.readers import fingerprint, open_slide
from wsitool.slides.slide_list import find_slides
from wsitool.slides.spec import TileSpec
from wsitool.testing.reader_checks import READER_CHECKS, ReaderSubject
from wsitool.testing.synthetic import draw_tissue
from wsitool.tiling.run import tile_slide

_RGB = draw_tissue(601, 455, kind="benign", mpp=0.5, seed=3)


def _write(
    path: Path, *, suffix: str = ".png", pixels: NDArray[np.uint8] = _RGB, mpp: str = "", **options: int
) -> Path:
    image = pyvips.Image.new_from_array(pixels)
    if mpp:
        image = image.copy()
        image.set_type(pyvips.GValue.gstr_type, "openslide.mpp-x", mpp)
        image.set_type(pyvips.GValue.gstr_type, "openslide.mpp-y", mpp)
    image.dzsave(str(path.with_suffix("")), suffix=suffix, properties=bool(mpp), **options)
    return path


@pytest.mark.parametrize(("tile", "overlap"), [(254, 1), (128, 0), (100, 7)])
def test_pixels_are_those_that_were_written(tmp_path: Path, tile: int, overlap: int) -> None:
    path = _write(tmp_path / "s.dzi", tile_size=tile, overlap=overlap, mpp="0,25")
    with open_slide(path) as slide:
        info = slide.info
        assert (info.reader, info.name, info.mpp, info.width, info.height) == (
            "deepzoom",
            "s",
            0.25,
            601,
            455,
        )
        assert np.array_equal(slide.read_region(0, 0, 0, 601, 455), _RGB)
        assert np.array_equal(slide.read_region(91, 93, 0, 200, 50), _RGB[93:143, 91:291])
        for index, level in enumerate(info.levels[1:], 1):
            halved = _stitched(tmp_path / "s_files", index, level.width, level.height, tile, overlap)
            assert np.array_equal(slide.read_region(0, 0, index, level.width, level.height), halved)
        assert max(info.levels[-1].width, info.levels[-1].height) <= tile
        slide.check_unchanged()


def _stitched(
    folder: Path, index: int, width: int, height: int, tile: int, overlap: int
) -> NDArray[np.uint8]:
    """A level put together of its files by libvips, overlaps written over."""
    level = folder / str(max(int(each.name) for each in folder.iterdir() if each.is_dir()) - index)
    pixels = np.zeros((height, width, 3), np.uint8)
    for file in level.iterdir():
        column, row = map(int, file.stem.split("_"))
        part = pyvips.Image.new_from_file(str(file)).numpy()
        y, x = max(0, row * tile - overlap), max(0, column * tile - overlap)
        pixels[y : y + part.shape[0], x : x + part.shape[1]] = part
    return pixels


def test_jpeg_tiles_are_those_of_the_decoder(tmp_path: Path) -> None:
    path = _write(tmp_path / "s.dzi", suffix=".jpeg[Q=95]", tile_size=254, overlap=1)
    with open_slide(path) as slide:
        assert slide.info.mpp is None
        shown = slide.read_region(0, 0, 0, 601, 455)
    assert np.abs(shown.astype(int) - _RGB).mean() < 4
    first = pyvips.Image.new_from_file(str(tmp_path / "s_files" / "10" / "0_0.jpeg")).numpy()
    assert np.abs(shown[:254, :254].astype(int) - first[:254, :254]).max() <= 2  # another build of libjpeg


def test_it_passes_the_checks_of_readers_that_a_file_of_several_can(tmp_path: Path) -> None:
    path = _write(tmp_path / "s.dzi", tile_size=128, overlap=1)
    subject = ReaderSubject(reader=READERS.get("deepzoom"), files=(path,))
    for check in READER_CHECKS:
        if check.__name__ != "check_closing":  # copies the .dzi without its tiles
            check(subject)


def test_tiles_that_are_lost_or_of_another_size_are_unreadable(tmp_path: Path) -> None:
    path = _write(tmp_path / "s.dzi", tile_size=128, overlap=1)
    before = fingerprint(path)
    tiles = tmp_path / "s_files" / "10"
    (tiles / "1_1.png").unlink()
    shutil.copy(tiles / "0_0.png", tiles / "2_1.png")
    assert fingerprint(path) != before
    with open_slide(path) as slide:
        level = slide.tiles(0)
        with pytest.raises(RegionReadError, match="No such file"):
            level.decode(1, 1)
        with pytest.raises(RegionReadError, match="it is 129x129 pixels where 130x130 are expected"):
            level.decode(2, 1)
        (tiles / "0_0.png").write_bytes(b"other")
        with pytest.raises(SlideError, match="changed while it was read"):
            slide.check_unchanged()


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("Image", "Picture", UnsupportedSlideError, "it has no Image with a Size"),
        ('Format="png"', 'Format="avif"', RefusedSlideError, "tiles of kind 'avif'"),
        ('Width="601"', 'Width="many"', RefusedSlideError, "states no whole sizes"),
        ('Overlap="1"', 'Overlap="900"', RefusedSlideError, "overlap 900"),
        ('Width="601"', 'Width="60100"', RefusedSlideError, "lacks its level"),
        ('Width="601"', 'Width="601000000"', RefusedSlideError, "are taken to be true"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, old: str, new: str, error: type[Exception], message: str
) -> None:
    path = _write(tmp_path / "s.dzi", tile_size=254, overlap=1)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(error, match=message):
        open_slide(path, reader="deepzoom")


def test_without_its_tiles_it_says_what_to_copy(tmp_path: Path) -> None:
    path = _write(tmp_path / "s.dzi", tile_size=254)
    shutil.rmtree(tmp_path / "s_files")
    with pytest.raises(RefusedSlideError, match=r"tiles of 's.dzi' are not beside it: copy .*s_files', too"):
        open_slide(path)


def test_tiles_are_decoded_once_and_are_no_slides_themselves(tmp_path: Path) -> None:
    path = _write(tmp_path / "s.dzi", tile_size=128, overlap=1)
    assert [slide.path for slide in find_slides(tmp_path)] == [str(path)]
    result = tile_slide(path, tmp_path / "o", TileSpec(patch_size=64, level=0, codec="raw", min_tissue=0))
    assert result.decoded_tiles == result.needed_tiles and result.kept == 63
    assert verify_store(tmp_path / "o" / "s.h5", slide=path).sound
