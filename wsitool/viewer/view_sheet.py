"""One patch and what a method makes of it, as one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.methods.example_views import example_views
from wsitool.store.collection import open_collection

__all__ = ["view_sheet"]

_DRAWN = 3
_PAPER = 255


def view_sheet(store: Path, row: int, method: str) -> NDArray[np.uint8]:
    """Rows: the views of patch `row`, drawn three times; columns: the patch, then each view. (H, W, 3) uint8.

    Raises what `example_views` raises. Smaller views lie in the upper left of their cell.
    """
    views = example_views(open_collection(store), method=method, rows=[row] * _DRAWN)
    height = max(images.shape[1] for images in views.values())
    columns = []
    for images in views.values():
        below = height - images.shape[1]
        padded = np.pad(images, ((0, 0), (0, below), (0, 0), (0, 0)), constant_values=_PAPER)
        columns.append(np.concatenate(list(padded)))
    return np.concatenate(columns, axis=1)
