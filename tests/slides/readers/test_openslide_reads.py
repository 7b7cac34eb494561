"""What the OpenSlide reader asks of OpenSlide: only what lies under patches, once, with a cache for a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from tiff_edits import set_values

from wsitool.errors import RegionReadError
from wsitool.slides.readers import open_slide
from wsitool.slides.readers.openslide import _Handles
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing.synthetic import draw_tissue, write_pyramid
from wsitool.tiling.run import tile_slide

_WIDTH, _HEIGHT, _TISSUE = 3000, 1100, (1800, 300, 2600, 800)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """White glass with one piece of tissue (x0, y0, x1, y1), far from the corner."""
    pixels = np.full((_HEIGHT, _WIDTH, 3), 243, np.uint8)
    left, top, right, bottom = _TISSUE
    pixels[top:bottom, left:right] = draw_tissue(right - left, bottom - top, kind="adh", mpp=0.5, seed=1)
    return write_pyramid(tmp_path_factory.mktemp("sparse") / "s.svs", pixels, mpp=0.5, levels=(1, 4))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int, int, tuple[int, int]]]]:
    """Every rectangle asked of OpenSlide, as (x0, y0, level, size)."""
    seen: list[tuple[int, int, int, tuple[int, int]]] = []
    real = _Handles.read

    def noted(self: _Handles, x0: int, y0: int, level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        seen.append((x0, y0, level, size))
        return real(self, x0, y0, level, size)

    monkeypatch.setattr(_Handles, "read", noted)
    yield seen


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stride", [64, 40])
def test_reads_are_clipped_to_the_patches(
    sparse: Path,
    tmp_path: Path,
    reads: list[tuple[int, int, int, tuple[int, int]]],
    stride: int,
    threads: int,
) -> None:
    spec = TileSpec(level=0, patch_size=64, stride=stride, codec="raw", min_tissue=0.5)
    result = tile_slide(sparse, tmp_path, spec, reader="openslide", threads=threads)
    full = [(x, y, size) for x, y, level, size in reads if level == 0]
    assert len(set(full)) == len(full) == result.decoded_tiles == result.needed_tiles, "each once"
    with open_store(result.store) as store:
        corners = store.coords
    for x, y, (width, height) in full:
        assert x + width <= _WIDTH and y + height <= _HEIGHT, "nothing beyond the slide"
        under = (corners + 64 > (x, y)).all(axis=1) & (corners < (x + width, y + height)).all(axis=1)
        assert under.any(), f"a tile at ({x}, {y}) lies under no patch"
    area = sum(width * height for _, _, (width, height) in full)
    assert area < _WIDTH * _HEIGHT / 3, "the glass is not read at full resolution"


def test_every_reader_thread_shares_a_cache_of_the_slides_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    megabytes: list[int] = []
    real = openslide.OpenSlideCache

    def noted(capacity: int) -> openslide.OpenSlideCache:
        megabytes.append(capacity >> 20)
        return real(capacity)

    monkeypatch.setattr(openslide, "OpenSlideCache", noted)
    for width in (600, 60_000):
        pixels = np.full((300, width, 3), 200, np.uint8)
        pixels[::7] = 120
        path = write_pyramid(tmp_path / f"{width}.svs", pixels, mpp=0.5, levels=(1, 16))
        spec = TileSpec(level=0, patch_size=256, codec="raw", min_tissue=0)
        tile_slide(path, tmp_path / "o", spec, reader="openslide", threads=3)
    # One cache per slide, not per thread; at least 64 MB, or a row of 512-px tiles of 4 bytes a pixel.
    assert megabytes == [64, 60_000 * 512 * 4 >> 20]


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
@pytest.mark.parametrize("damage", ["empty", "longer", "cut"])
def test_a_tile_that_is_damaged_is_unreadable_by_name_too(tmp_path: Path, reader: str, damage: str) -> None:
    """Both libraries show what is left of it, or blank."""
    pixels = draw_tissue(512, 256, kind="adh", mpp=0.5, seed=2)
    path, options = tmp_path / "s.tif", {"tile": (128, 128), "photometric": "rgb"}
    compression = "jpeg" if damage == "cut" else None
    tifffile.imwrite(path, pixels, metadata=None, compression=compression, **options)  # type: ignore[arg-type]
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = list(tiff.pages[0].dataoffsets), list(tiff.pages[0].databytecounts)
    data = bytearray(path.read_bytes())
    if damage == "empty":
        counts[1] = 0
    elif damage == "longer":
        offsets[1], counts[1] = len(data), 129 * 129 * 3
        data += bytes(counts[1])
    else:
        data[offsets[1] + counts[1] // 2 : offsets[1] + counts[1]] = bytes(counts[1] - counts[1] // 2)
    path.write_bytes(data)
    set_values(path, 324, offsets)
    set_values(path, 325, counts)
    with open_slide(path) as direct, open_slide(path, reader=reader) as slide:
        assert np.array_equal(slide.read_region(256, 0, 0, 256, 256), direct.read_region(256, 0, 0, 256, 256))
        assert np.array_equal(slide.read_region(0, 128, 0, 128, 128), direct.read_region(0, 128, 0, 128, 128))
        for x in (100, 130):
            with pytest.raises(RegionReadError, match="tile column 1, row 0 of level 0 cannot be read"):
                slide.read_region(x, 0, 0, 64, 64)


def test_a_property_whose_name_is_no_utf8_is_left_out(sparse: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.svs"
    path.write_bytes(sparse.read_bytes().replace(b"|AppMag", b"|App\xffag"))
    with open_slide(path, reader="openslide") as slide:
        assert slide.info.mpp == 0.5 and slide.info.objective_power is None
