"""What can be told of a patch from its colours and edges alone: the baseline that a network must beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsitool.store.collection import Collection

__all__ = ["COLOR_NUMBERS", "color_features", "color_numbers"]

_BATCH = 256
_SIDE = 64
_DECILES = (0.1, 0.5, 0.9)
_INK = 215  # as `slides.tissue.INK_LIMIT`: min(R, G, B) below it is tissue
_DARK = 90  # of the luminance: nuclei, roughly
COLOR_NUMBERS = (
    *(f"{channel}_{name}" for name in ("mean", "sd", "p10", "p50", "p90") for channel in "rgb"),
    *("saturation_mean", "saturation_sd", "gray_sd", "tissue", "dark"),
    *("edge_mean", "edge_sd", "edge_p90", "fine_edge_mean"),
)
"""Names of the 24 numbers, in order."""


def color_features(patches: Collection) -> NDArray[np.float32]:
    """`color_numbers` of every patch of a collection, in its order: (N, 24) float32, each read once."""
    parts = [
        color_numbers(patches.read(np.arange(start, min(start + _BATCH, len(patches)))))
        for start in range(0, len(patches), _BATCH)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, len(COLOR_NUMBERS)), np.float32)


def color_numbers(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The 24 numbers of `COLOR_NUMBERS` for uint8 RGB patches (B, P, P, 3): (B, 24) float32 in [0, 1] or so.

    Means, deviations and deciles of each channel, saturation, shares of tissue and of dark pixels, and the
    steps between neighbouring pixels: nothing of shape or arrangement.
    """
    # Of large patches some pixels in a grid, 64 to 127 a side: their colours are those of all.
    step = max(1, patches.shape[1] // _SIDE)
    patches = patches[:, ::step, ::step]
    flat = patches.reshape(len(patches), -1, 3)  # (B, P * P, 3)
    pixels = flat.astype(np.float32) / 255
    # Bytes are sorted several times faster than floats, and a decile between two of them is one of them.
    ranks = [round(share * (flat.shape[1] - 1)) for share in _DECILES]
    deciles = np.sort(flat, axis=1)[:, ranks].reshape(len(flat), -1).astype(np.float32) / 255
    highest, lowest = pixels.max(2), pixels.min(2)
    saturation = (highest - lowest) / np.maximum(highest, 1e-6)
    gray = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    image = gray.reshape(patches.shape[:3])
    # One step right and down, of the picture and of what is left of it without its smooth part.
    right, down = np.diff(image, axis=2)[:, 1:], np.diff(image, axis=1)[:, :, 1:]
    edge = np.hypot(right, down).reshape(len(patches), -1)
    fine = np.abs(np.diff(image, n=2, axis=2)).reshape(len(patches), -1)
    columns = [
        pixels.mean(1),
        pixels.std(1),
        deciles,
        *(value[:, None] for value in (saturation.mean(1), saturation.std(1), gray.std(1))),
        (lowest < _INK / 255).mean(1)[:, None],
        (gray < _DARK / 255).mean(1)[:, None],
        *(value[:, None] for value in (edge.mean(1), edge.std(1), np.quantile(edge, 0.9, axis=1))),
        fine.mean(1)[:, None],
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)
