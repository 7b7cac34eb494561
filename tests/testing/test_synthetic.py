"""The drawn slides are real files that OpenSlide reads, repeatable, and differ as their kinds claim."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest

from wsitool.testing import KINDS, draw_tissue, synthetic_slide


def test_openslide_reads_geometry_and_resolution(tmp_path: Path) -> None:
    path = synthetic_slide(tmp_path / "a.svs", size=(900, 700), mpp=0.25, levels=(1, 2, 4))
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert slide.level_dimensions == ((900, 700), (450, 350), (225, 175))
        assert float(slide.properties["openslide.mpp-x"]) == 0.25
        assert slide.properties["openslide.objective-power"] == "40"


def test_resolution_can_be_left_out(tmp_path: Path) -> None:
    path = synthetic_slide(tmp_path / "a.svs", size=(300, 300), mpp=None)
    with openslide.OpenSlide(path) as slide:
        assert "openslide.mpp-x" not in slide.properties


@pytest.mark.parametrize("compression", ["jpeg2000", "none"])
def test_lossless_tiles_hold_the_drawn_pixels(tmp_path: Path, compression: str) -> None:
    path = synthetic_slide(tmp_path / "a.svs", size=(300, 280), compression=compression, seed=3)  # type: ignore[arg-type]
    drawn = draw_tissue(300, 280, kind="benign", seed=3)
    with openslide.OpenSlide(path) as slide:
        read = np.asarray(slide.read_region((0, 0), 0, (300, 280)).convert("RGB"))
    assert np.abs(read.astype(int) - drawn).max() <= (3 if compression == "jpeg2000" else 0)


def test_same_seed_same_pixels_other_seed_others() -> None:
    first, again, other = (draw_tissue(200, 200, kind="adh", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_kinds_differ_in_nuclear_area() -> None:
    """Dark pixels are nuclei: DCIS has the most of them, benign breast the fewest."""

    def nuclear(kind: str) -> float:
        return float((draw_tissue(1200, 1200, kind=kind, glass=0.0)[..., 0] < 140).mean())

    areas = {kind: nuclear(kind) for kind in KINDS}
    assert areas["benign"] < areas["adh"] < areas["dcis"]
