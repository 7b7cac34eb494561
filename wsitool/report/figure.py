"""A figure of matplotlib, which is imported only when the first one is drawn: it costs a command .3 s."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from wsitool.base.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "save_figure"]


def new_figure(width: float, height: float, *, dpi: int) -> Figure:
    """An empty figure of `width` x `height` inches, its parts laid out so that no text is cut off."""
    # Object interface: pyplot keeps figures alive and picks a backend that may need a display.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write `figure` as PNG; the file is complete or not there."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Boxes then stand for the letters: of Korean names, where the system has no font with them.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        figure.savefig(buffer, format="png")
    replace_file(Path(path), buffer.getvalue())
