"""Where the patches of a feature file lie, as far as it says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.errors import StoreError

__all__ = ["Places", "read_places"]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Level-0 corners `coords` (N, 2) and the side of a patch there; `extent` (w, h) of level 0 or None.

    `told` is False where the file does not say the side: then it is the smallest step between patches.
    """

    coords: NDArray[np.int64]
    size_level0: float
    told: bool
    extent: tuple[int, int] | None


def read_places(path: Path, rows: int) -> Places | None:
    """Of a file with so many `rows` of features; None where it has no coordinates, as a .pt.

    StoreError where they cannot be read, or are not a row each.
    """
    if path.suffix != ".h5":
        return None
    try:
        with h5py.File(path, "r") as file:
            if "coords" not in file:
                return None
            coords = np.asarray(file["coords"][()], np.int64)
            said = {name: np.asarray(value) for name, value in file["coords"].attrs.items()}
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise StoreError(f"'{path}' has coords that cannot be read ({error}).") from None
    coords = coords[0] if coords.ndim == 3 and len(coords) == 1 else coords
    if coords.shape != (rows, 2):
        raise StoreError(f"'{path}' must hold coords (N, 2) for {rows} features, got {coords.shape}.")
    side = _side(said)
    return Places(
        coords=coords,
        size_level0=_step(coords) if side is None else side,
        told=side is not None,
        extent=_extent(said),
    )


def _number(said: dict[str, NDArray[np.generic]], name: str) -> float | None:
    try:
        value = float(np.ravel(said[name])[0])
    except (KeyError, IndexError, ValueError, TypeError):
        return None
    return value if 0 < value < 1e9 else None


def _side(said: dict[str, NDArray[np.generic]]) -> float | None:
    """As embed and TRIDENT name it; as CLAM's patching does, in pixels of a level."""
    if (side := _number(said, "patch_size_level0")) is not None:
        return side
    side, factor = _number(said, "patch_size"), _number(said, "downsample")
    return None if side is None or factor is None else side * factor


def _extent(said: dict[str, NDArray[np.generic]]) -> tuple[int, int] | None:
    width, height = _number(said, "level0_width"), _number(said, "level0_height")
    return None if width is None or height is None else (round(width), round(height))


def _step(coords: NDArray[np.int64]) -> float:
    """The smallest difference between columns, or rows; 1 of a single patch."""
    steps = np.concatenate([np.diff(np.unique(column)) for column in coords.T])
    return float(steps.min()) if len(steps) else 1.0
