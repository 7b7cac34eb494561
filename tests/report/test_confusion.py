from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imread

from wsitool.report.confusion import draw_confusion


def test_diagonal_is_drawn_darker(tmp_path: Path) -> None:
    draw_confusion(tmp_path / "c.png", np.array([[90, 10], [0, 0]]), ("benign", "malignant"), title="test")
    drawn = imread(tmp_path / "c.png")
    assert drawn.ndim == 3 and min(drawn.shape[:2]) > 300
    color = colormaps["PuRd"](0.9)[:3]
    dark = np.abs(drawn[..., :3] - color).sum(-1) < 0.05
    assert dark.mean() > 0.02
    draw_confusion(tmp_path / "d.png", np.array([[10, 90], [0, 0]]), ("benign", "malignant"), title="test")
    other = np.abs(imread(tmp_path / "d.png")[..., :3] - color).sum(-1) < 0.05
    assert np.flatnonzero(other.any(0)).mean() > np.flatnonzero(dark.any(0)).mean() + 50  # one column right
