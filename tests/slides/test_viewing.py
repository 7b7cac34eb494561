"""Parts of a slide and its thumbnail, beside what is stored of it and what NumPy makes of level 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import wsitool
from wsitool.errors import MissingMppError, UsageError
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing import synthetic_slide
from wsitool.tiling.run import tile_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_slide(tmp_path_factory.mktemp("slides") / "s.svs", size=(1300, 900), glass=0.1)


@pytest.mark.parametrize("mpp", [0.5, 1.0, 0.8, 3.1])
def test_a_part_is_what_tile_stores(slide: Path, tmp_path: Path, mpp: float) -> None:
    spec = TileSpec(mpp=mpp, patch_size=64, codec="raw", min_tissue=0, resample="exact")
    with open_store(tile_slide(slide, tmp_path, spec).store) as store, wsitool.open_slide(slide) as opened:
        for row in (0, len(store) // 2, len(store) - 1):
            x, y = store.coords[row].tolist()
            part = opened.read(x, y, 64, mpp=mpp).astype(int)
            off = np.abs(part - store[row].astype(int))
            if mpp in (0.5, 1.0):
                assert off.max() <= 2 * mpp - 1, row  # a level as it is, and a mean that is rounded
            else:
                # Corners are whole level-0 pixels, so that a part lies up to half of one beside its patch.
                assert off.mean() <= 4, row


def test_without_mpp_it_is_level_0(slide: Path) -> None:
    with wsitool.open_slide(slide) as opened:
        assert np.array_equal(opened.read(30, 40, (50, 20)), opened.read_region(30, 40, 0, 50, 20))
        outside = opened.read(-10, -10, 8, mpp=1)
        assert outside.shape == (8, 8, 3) and (outside[:5, :5] == 255).all()
        for size in (0, 20_000, (5, -1)):
            with pytest.raises(UsageError, match="sides of 1 to"):
                opened.read(0, 0, size)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [65, 130, 433])
def test_a_thumbnail_is_the_mean_over_its_pixels(slide: Path, side: int) -> None:
    with wsitool.open_slide(slide) as opened:
        small = opened.thumbnail(side)
        assert small.shape == (round(900 * side / 1300), side, 3)
        if 1300 % side == 0:
            step = 1300 // side
            whole = opened.read(0, 0, (1300, 900)).astype(float)
            mean = (
                whole[: small.shape[0] * step].reshape(small.shape[0], step, side, step, 3).mean(axis=(1, 3))
            )
            assert np.abs(mean - small).mean() < 3  # levels between were compressed
        assert opened.thumbnail(5000).shape == (900, 1300, 3)


def test_a_slide_shows_itself(slide: Path, tmp_path: Path) -> None:
    with wsitool.open_slide(slide) as opened:
        assert repr(opened) == "<slide s: 1300 x 900 px, 0.5 um/px>"
        html = opened._repr_html_()
    assert html.count("data:image/jpeg") == 1 and "1,300 x 900 px" in html and len(html) < 100_000
    plain = synthetic_slide(tmp_path / "<b>.svs", size=(300, 300), mpp=None)
    with wsitool.open_slide(plain) as opened:
        assert "<b>.svs" not in opened._repr_html_() and "&lt;b&gt;" in opened._repr_html_()
        with pytest.raises(MissingMppError):
            opened.read(0, 0, 10, mpp=1)
