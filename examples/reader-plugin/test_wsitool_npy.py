"""The reader keeps wsitool's contract, and its pixels are NumPy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from wsitool_npy import READER, write_npy

import wsitool
from wsitool.errors import RefusedSlideError, UnsupportedSlideError
from wsitool.testing import check_reader

_PIXELS = np.random.default_rng(0).integers(0, 256, (301, 203, 3), np.uint8)


def test_conformance(tmp_path: Path) -> None:
    results = check_reader(READER, [write_npy(tmp_path / "s.npy", _PIXELS)])
    assert [f"{each.name}: {each.message}" for each in results if not each.passed] == []


def test_pixels_are_those_that_numpy_loads(tmp_path: Path) -> None:
    path = write_npy(tmp_path / "s.npy", _PIXELS)
    with wsitool.open_slide(path, reader=READER) as slide, path.open("rb") as file:
        for index in range(3):
            expected = np.load(file)
            height, width = expected.shape[:2]
            assert np.array_equal(slide.read_region(0, 0, index, width, height), expected)


def test_what_is_no_pyramid_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.npy"
    np.save(path, np.zeros((5, 4), np.float32))
    with pytest.raises(UnsupportedSlideError, match=r"float32 of shape \(5, 4\) where \(h, w, 3\) uint8"):
        wsitool.open_slide(path, reader=READER)
    write_npy(path, _PIXELS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RefusedSlideError, match="cut off within level 2"):
        wsitool.open_slide(path, reader=READER)
