"""The preview: a picture that opens, with kept and rejected squares where they belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from wsitool.report.colors import class_color
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


def test_rejected_patches_are_shaded_and_kept_ones_framed() -> None:
    picture = np.asarray(draw_preview(_mask(250, 250, 16.0), _candidates(), 1600.0)).astype(int)
    zoom = 1000 / 250 / 16
    middles = [picture[round((y + 800) * zoom), round((x + 800) * zoom)] for x, y in _candidates().coords]
    kept, low, pen = middles
    assert (kept == 240).all()
    assert 100 < low.mean() < 220 and np.ptp(low) < 20
    assert pen[0] > pen[2] + 60 and pen[0] > 180  # tissue shows through


def test_a_kept_patch_is_not_shaded_by_rejected_neighbours_it_overlaps() -> None:
    candidates = replace(_candidates(), coords=np.array([[0, 0], [400, 0], [0, 400]]))
    picture = np.asarray(draw_preview(_mask(250, 250, 16.0), candidates, 1600.0))
    assert (picture[300, 300] == 240).all() and (picture[200, 450] != 240).any()


def test_labelled_patches_have_their_class_s_color_and_name() -> None:
    candidates = replace(_candidates(), reason=np.zeros(3, np.uint8))
    labels = np.array([0, 1, -1], np.int16)
    plain = draw_preview(_mask(250, 250, 16.0), candidates, 1600.0)
    classes = ("benign", "dcis")
    drawn = draw_preview(_mask(250, 250, 16.0), candidates, 1600.0, labels=labels, classes=classes)
    places = [(60, 0), (60, 500), (560, 0)]
    frames = [np.asarray(drawn)[place].tolist() for place in places]
    assert frames == [list(class_color(0)), list(class_color(1)), [0, 122, 92]]
    assert (np.asarray(plain)[60, 0] == (0, 122, 92)).all()
    assert drawn.size[0] == plain.size[0]


def test_the_edge_of_the_tissue_is_drawn() -> None:
    mask = _mask(250, 250, 16.0)
    half = replace(mask, mask=np.broadcast_to(np.arange(250) < 125, (250, 250)).copy())
    nothing = replace(_candidates(), reason=np.full(3, 1, np.uint8), coords=np.full((3, 2), 3900))
    row = np.asarray(draw_preview(half, nothing, 16.0))[300].astype(int).sum(axis=1)
    assert np.flatnonzero(row < 200).tolist() == [499, 500]
    assert (np.asarray(draw_preview(mask, nothing, 16.0))[300].sum(axis=1) > 700).all()


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
