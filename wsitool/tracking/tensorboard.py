"""Rows as scalars, the config as text, pictures as images, in OUT/tensorboard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from wsitool.tracking.contract import LoggedRow, RunInfo

__all__ = ["TensorBoardRun", "start"]


class TensorBoardRun:
    """One folder of event files, which a run that goes on adds to."""

    run_id = "tensorboard"  # the folder's name is all there is

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))
        self._step = 0

    def config(self, text: str) -> None:
        self._writer.add_text("config", f"```json\n{text}\n```")

    def rows(self, rows: Sequence[LoggedRow]) -> None:
        for row in rows:
            self._step = row.step
            for name, value in row.values.items():
                self._writer.add_scalar(name, value, row.step)

    def figures(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, self._step)

    def picture(self, path: Path) -> None:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(path.stem, pixels, self._step, dataformats="HWC")

    def file(self, path: Path) -> None:
        self._writer.add_text(path.name, f"```\n{path.read_text(encoding='utf-8')}\n```", self._step)

    def close(self, *, failed: bool) -> None:
        self._writer.close()


def start(info: RunInfo) -> TensorBoardRun:
    """Event files in OUT/tensorboard."""
    run = TensorBoardRun(info.out / "tensorboard")
    run.config(json.dumps(info.config, indent=2, default=str))
    return run
