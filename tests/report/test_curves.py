from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from wsitool.report.curves import Curve, Panel, save_curves


def test_each_panel_widens_the_picture_and_curves_are_drawn(tmp_path: Path) -> None:
    noisy = [1 / (step + 1) + 0.1 * (step % 3) for step in range(200)]
    loss = Panel(title="loss", curves=[Curve(label="loss", x=range(200), y=noisy, smooth=True)], chance=1.4)
    save_curves(tmp_path / "one.png", [loss])
    save_curves(tmp_path / "two.png", [loss, Panel(title="lr", curves=[Curve(label="lr", x=[1], y=[0.1])])])
    one, two = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("one.png", "two.png"))
    assert two.shape[1] == 2 * one.shape[1] and two.shape[0] == one.shape[0]
    save_curves(tmp_path / "four.png", [loss] * 4)
    with Image.open(tmp_path / "four.png") as four:
        assert four.size == (3 * one.shape[1], 2 * one.shape[0])
    with Image.open(tmp_path / "four.png") as four:
        drawn = np.asarray(four.convert("L"))
    second_row = drawn[one.shape[0] :]
    assert (second_row[:, : one.shape[1]] < 128).any()  # the fourth panel
    assert (second_row[:, one.shape[1] + 20 :] == 255).all()  # and no empty axes beside it
    blue = (one[..., 2] > 150) & (one[..., 0] < 80)
    assert blue.sum() > 200  # the averaged curve, in full colour
    assert sorted(path.name for path in tmp_path.iterdir()) == ["four.png", "one.png", "two.png"]


def test_there_are_no_half_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    curve = Curve(label="loss", x=[0, 1, 2, 3], y=[3.0, 2.0, 1.0, 0.5])
    save_curves(tmp_path / "c.png", [Panel(title="loss", curves=[curve])], x_label="epoch")
    ticks = figures[0].axes[0].get_xticks()
    assert len(ticks) >= 4 and (ticks == ticks.round()).all()
