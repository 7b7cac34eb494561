"""The sheet shows every picture, in its place, pixel for pixel or enlarged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsitool.report.contact_sheet import contact_sheet, draw_contact_sheet


@pytest.mark.parametrize("size", [16, 130])
def test_pictures_are_where_they_belong(size: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {
        name: rng.integers(0, 256, (3, size, size, 3), dtype=np.uint8) for name in ("original", "a", "b")
    }
    contact_sheet(tmp_path / "s.png", columns)
    with Image.open(tmp_path / "s.png") as opened:
        sheet = np.asarray(opened)
    side = max(112, size)
    assert sheet.shape == (28 + 3 * (side + 8), 8 + 3 * (side + 8), 3)
    for column, images in enumerate(columns.values()):
        for row, image in enumerate(images):
            x, y = 8 + column * (side + 8), 28 + row * (side + 8)
            cell = sheet[y : y + side, x : x + side]
            assert abs(cell.mean() - image.mean()) < 1
            assert np.array_equal(cell[0, 0], image[0, 0])
            assert np.array_equal(cell[-1, -1], image[-1, -1])
    assert np.asarray(draw_contact_sheet(columns))[:28].min() < 100, "no headings"
