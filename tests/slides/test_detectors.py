"""Tissue detectors by name: against scikit-image, and one wherever a store's tissue is looked for again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from skimage.color import rgb2hsv
from skimage.filters import threshold_otsu

from wsitool.curate.refiltering import refilter
from wsitool.curate.verifying import spec_of, verify_store
from wsitool.errors import StoreError
from wsitool.slides.detectors import otsu_tissue
from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.slides.tissue import tissue_mask
from wsitool.slides.tissue_registry import TISSUE
from wsitool.store.opening import open_store
from wsitool.testing import check_tissue, draw_tissue, synthetic_slide
from wsitool.tiling.run import tile_slide

_NAMES = tuple(TISSUE)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_slide(tmp_path_factory.mktemp("s") / "s.svs", size=(1200, 1000), glass=0.5)


@pytest.mark.parametrize("name", _NAMES)
def test_the_built_in_ones_keep_every_rule(name: str) -> None:
    assert [f"{each.name}: {each.message}" for each in check_tissue(name) if not each.passed] == []


def test_otsu_is_scikit_images_on_saturation() -> None:
    picture = draw_tissue(300, 200, kind="benign", mpp=4.0, seed=3, glass=0.5)
    saturation = rgb2hsv(picture)[..., 1]
    seen = np.zeros(picture.shape[:2], bool)
    assert np.array_equal(otsu_tissue(picture, mpp=4.0, unread=seen), saturation > threshold_otsu(saturation))
    unread = seen.copy()
    unread[:, :100] = True
    picture[unread] = 255
    expected = rgb2hsv(picture)[..., 1] > threshold_otsu(rgb2hsv(picture[:, 100:])[..., 1])
    assert np.array_equal(otsu_tissue(picture, mpp=None, unread=unread), expected)


def test_none_keeps_every_position(slide: Path, tmp_path: Path) -> None:
    done = tile_slide(slide, tmp_path, TileSpec(patch_size=64, level=0, tissue="none"))
    assert done.counts["kept"] == done.candidates == (1200 // 64) * (1000 // 64)
    with open_slide(slide) as opened:
        assert tissue_mask(opened, detector="none").mask.all()


def test_the_default_is_not_stated_so_that_stores_of_before_are_todays(slide: Path, tmp_path: Path) -> None:
    """What the same command wrote before there was a choice is neither another store nor in the way."""
    assert "tissue" not in TileSpec().to_params() and TileSpec(tissue="otsu").to_params()["tissue"] == "otsu"
    first = tile_slide(slide, tmp_path, TileSpec(patch_size=64, mpp=0.5))
    with open_store(first.store) as store:
        assert "tissue" not in store.meta.params
        assert spec_of(store.meta) == TileSpec(patch_size=64, mpp=0.5, stride=64)
    again = tile_slide(slide, tmp_path, TileSpec(patch_size=64, mpp=0.5, tissue="chroma"))
    assert again.status == "skipped" and again.content_hash == first.content_hash


@pytest.mark.parametrize(("stored", "asked"), [("otsu", "chroma"), ("chroma", "otsu"), ("otsu", "none")])
def test_another_detector_is_another_store(slide: Path, tmp_path: Path, stored: str, asked: str) -> None:
    tile_slide(slide, tmp_path, TileSpec(patch_size=64, mpp=1.0, tissue=stored))
    with pytest.raises(StoreError, match=f"was made with tissue '{stored}' instead of '{asked}'"):
        tile_slide(slide, tmp_path, TileSpec(patch_size=64, mpp=1.0, tissue=asked))


def test_the_stores_own_detector_looks_for_its_tissue_again(slide: Path, tmp_path: Path) -> None:
    wide = TileSpec(patch_size=64, mpp=1.0, tissue="otsu", min_tissue=0.2)
    whole = tile_slide(slide, tmp_path / "whole", wide)
    done = tile_slide(slide, tmp_path / "o", TileSpec(patch_size=64, mpp=1.0, tissue="otsu", min_tissue=0.9))
    assert verify_store(done.store, slide=slide).verdict == "ok"
    preview = tmp_path / "o" / "previews" / "s.jpg"
    drawn = preview.read_bytes()
    preview.unlink()
    tile_slide(slide, tmp_path / "o", TileSpec(patch_size=64, mpp=1.0, tissue="otsu", min_tissue=0.9))
    assert preview.read_bytes() == drawn
    changed = refilter(done.store, {"min_tissue": 0.2}, slide=slide)
    assert changed.added > 0
    with open_store(done.store) as store, open_store(whole.store) as expected:
        assert store.content_hash == expected.content_hash and store.meta.params == expected.meta.params
        assert json.dumps(store.counts) == json.dumps(expected.counts)
