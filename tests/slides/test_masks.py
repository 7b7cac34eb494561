"""`--tissue mask:PATH`: pictures and outlines made elsewhere, in the slide's own frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image

from wsitool.errors import SlideError, UsageError
from wsitool.slides.masks import check_tissue, find_mask, find_tissue, painted
from wsitool.slides.outlines import Region
from wsitool.slides.readers import open_slide
from wsitool.testing import synthetic_slide

WIDTH, HEIGHT = 800, 600


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "a.svs"
    return synthetic_slide(path, size=(WIDTH, HEIGHT), mpp=0.5, glass=0.05)


def _truth(scale: float) -> np.ndarray:
    """The left half but for a hole, at `scale` of the slide's size."""
    mask = np.zeros((round(HEIGHT * scale), round(WIDTH * scale)), bool)
    mask[:, : round(400 * scale)] = True
    mask[round(200 * scale) : round(400 * scale), round(100 * scale) : round(300 * scale)] = False
    return mask


def _write(path: Path, kind: str) -> Path:
    if kind == "outlines":
        rings = [
            [[0, 0], [400, 0], [400, 600], [0, 600]],
            [[100, 200], [300, 200], [300, 400], [100, 400]],
        ]
        feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}}
        path = path.with_suffix(".geojson")
        path.write_text(json.dumps(feature))
    elif kind == "png":
        Image.fromarray(_truth(0.25).astype(np.uint8) * 255).save(path.with_suffix(".png"))
        path = path.with_suffix(".png")
    else:  # as PAIP's: 0 and 1 at the slide's own size
        tifffile.imwrite(path.with_suffix(".tif"), _truth(1).astype(np.uint8), compression="lzw")
        path = path.with_suffix(".tif")
    return path


@pytest.mark.parametrize("kind", ["outlines", "png", "tif"])
def test_masks_of_all_kinds_give_the_same_tissue(slide: Path, tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path / "a_whole", kind)
    coords = np.array([[0, 0], [120, 220], [350, 0], [500, 100]])
    with open_slide(slide) as opened:
        for location in (path, tmp_path, f"{tmp_path}/{{slide}}_whole{path.suffix}"):
            mask = find_tissue(opened, f"mask:{location}")
            share = mask.fraction(coords, 100.0)
            np.testing.assert_allclose(share, [1, 0, 0.5, 0], atol=0.09)  # of pixels of 16 level-0 pixels
        assert mask.mask.mean() == pytest.approx(_truth(1).mean(), abs=0.02)


def test_masks_that_are_not_there_or_not_of_the_slide(slide: Path, tmp_path: Path) -> None:
    for name in ("mask:", f"mask:{tmp_path / 'none'}", f"mask:{tmp_path}/none/{{slide}}.png"):
        with pytest.raises(UsageError, match="There is no mask or folder of masks"):
            check_tissue(name)
    check_tissue(f"mask:{tmp_path}")
    Image.new("L", (300, 300)).save(tmp_path / "a.png")
    (tmp_path / "bad.geojson").write_text("{")
    with open_slide(slide) as opened:
        with pytest.raises(SlideError, match="300 x 300 px is not of 'a', which has 800 x 600"):
            find_tissue(opened, f"mask:{tmp_path / 'a.png'}")
        with pytest.raises(SlideError, match="are damaged"):
            find_tissue(opened, f"mask:{tmp_path / 'bad.geojson'}")
        with pytest.raises(SlideError, match=r"no mask of 'a' at .* such as a\.png"):
            find_tissue(opened, f"mask:{slide.parent}")
    with pytest.raises(SlideError, match=r"such as other\.png"):
        find_mask(str(tmp_path), "other.svs", "other")


def test_outlines_are_painted_by_the_centers_of_pixels() -> None:
    rng = np.random.default_rng(0)
    points = [shapely.Point(*rng.uniform(0, 400, 2)).buffer(rng.uniform(20, 80), 5) for _ in range(12)]
    regions = tuple(Region(names=("a",), area=p.difference(p.centroid.buffer(10))) for p in points)
    mask = painted(regions, (40, 50), 9.0)
    x, y = np.meshgrid((np.arange(50) + 0.5) * 9, (np.arange(40) + 0.5) * 9)
    expected = shapely.contains_xy(shapely.union_all([r.area for r in regions]), x, y)
    np.testing.assert_array_equal(mask, expected)
