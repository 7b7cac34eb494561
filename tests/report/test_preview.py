"""The preview: a picture that opens, with kept and rejected squares where they belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wsitool.report.preview import draw_preview, preview_jpeg
from wsitool.slides.tissue import TissueMask
from wsitool.store.schema import Candidates


def _mask(height: int, width: int, downsample: float) -> TissueMask:
    return TissueMask(
        mask=np.ones((height, width), bool),
        thumbnail=np.full((height, width, 3), 240, np.uint8),
        downsample=(downsample, downsample),
    )


def _candidates() -> Candidates:
    return Candidates(
        coords=np.array([[0, 0], [2000, 0], [0, 2000]]),
        tissue=np.array([0.9, 0.1, 0.8], np.float32),
        reason=np.array([0, 1, 2], np.uint8),
        reasons=("kept", "low tissue", "pen"),
    )


def test_squares_have_the_color_of_their_reason() -> None:
    picture = np.asarray(draw_preview(_mask(250, 250, 16.0), _candidates(), 1600.0))
    zoom = 1000 / 250 / 16
    kept, low, pen = (picture[round(y * zoom) + 60, round(x * zoom)] for x, y in _candidates().coords)
    assert kept[1] > kept[0] + 60
    assert abs(int(low[0]) - int(low[2])) < 20 and low[0] < 200
    assert pen[0] > pen[2] + 60
    assert (picture[200, 200] == 240).all()
    assert picture.shape[0] > 1000  # the legend is below


def test_small_and_huge_thumbnails_become_readable_sizes() -> None:
    for height, width in ((20, 10), (4096, 4000)):
        picture = draw_preview(_mask(height, width, 16.0), _candidates(), 100.0)
        assert 900 <= max(picture.size) <= 1900


def test_jpeg_is_complete_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "previews" / "slide.jpg"
    preview_jpeg(path, _mask(50, 50, 16.0), _candidates(), 300.0)
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "JPEG"
    assert list(path.parent.iterdir()) == [path]
