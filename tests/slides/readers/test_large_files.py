"""The largest files of one level: wide strips, each decoded once; pictures that say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import Image

from wsitool.errors import RefusedSlideError
from wsitool.slides.readers import open_slide, tiff
from wsitool.slides.tissue import tissue_mask
from wsitool.testing.synthetic import draw_tissue

_MOST_MB = 500


def _strips(path: Path, *, width: int, height: int, rows: int = 128) -> Path:
    """Tissue over and over in JPEG strips; libvips writes them as they come."""
    tissue = pyvips.Image.new_from_array(draw_tissue(2000, 1000, kind="benign", mpp=0.5, seed=3))
    image = tissue.replicate(-(-width // 2000), -(-height // 1000)).crop(0, 0, width, height)
    image.tiffsave(str(path), compression="jpeg", Q=85, tile=False, tile_height=rows)
    return path


def test_each_strip_is_decoded_once_to_find_tissue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _strips(tmp_path / "s.tif", width=12_000, height=1_000)
    decoded: list[int] = []
    decode = tiff.TiffLevel.decode

    def counted(level: tiff.TiffLevel, column: int, row: int, *, shrink: int = 1) -> np.ndarray:
        decoded.append(row)
        return decode(level, column, row, shrink=shrink)

    monkeypatch.setattr(tiff.TiffLevel, "decode", counted)
    with open_slide(path) as slide:
        mask = tissue_mask(slide)
        strips = -(-1000 // slide.tiles(0).tile_height)
    assert sorted(decoded) == list(range(strips)) and mask.thumbnail.std() > 0


def test_a_picture_too_large_for_memory_says_how_to_make_a_pyramid(tmp_path: Path) -> None:
    path = tmp_path / "p.jpg"
    Image.new("RGB", (15_000, 12_000), "pink").save(path)
    with pytest.raises(
        RefusedSlideError, match=r"\(15000 x 12000\): .*540 MB.*vips tiffsave p.jpg pyramid.tif --tile"
    ):
        open_slide(path)
    strip = _strips(tmp_path / "s.tif", width=12_000, height=15_000, rows=15_000)
    with pytest.raises(RefusedSlideError, match=r"strip of 's.tif'.*vips tiffsave s.tif"):
        open_slide(strip)


@pytest.mark.slow
def test_strips_50_000_pixels_wide_are_tiled_in_bounded_memory(tmp_path: Path) -> None:
    path = _strips(tmp_path / "s.tif", width=50_000, height=6_000)
    code = (
        "import sys; from wsitool.slides.spec import TileSpec; from wsitool.tiling.run import tile_slide\n"
        "result = tile_slide(sys.argv[1], sys.argv[2], TileSpec(level=0), threads=2)\n"
        "assert result.decoded_tiles == result.needed_tiles\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "o")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) / 1024 < _MOST_MB
