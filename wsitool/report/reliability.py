"""Whether probabilities mean what they say: confidence against the share that was right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.report.figure import new_figure, save_figure
from wsitool.report.texts import literal

__all__ = ["draw_reliability", "reliability"]

_BINS = 10


def reliability(
    probabilities: NDArray[np.float64], labels: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean confidence, accuracy and count of each of 10 equal bins that is not empty.

    `probabilities` (N, K), `labels` (N,); confidence is that of the top class.
    """
    confidence = probabilities.max(axis=1)
    hit = probabilities.argmax(axis=1) == labels
    # A confidence of 1 belongs to the last bin.
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    count = np.bincount(bins, minlength=_BINS)
    used = count > 0
    mean = np.bincount(bins, confidence, minlength=_BINS)[used] / count[used]
    right = np.bincount(bins, hit, minlength=_BINS)[used] / count[used]
    return mean, right, count[used]


def draw_reliability(
    path: str | Path, probabilities: NDArray[np.float64], labels: NDArray[np.integer], *, title: str = ""
) -> None:
    """Write a PNG of the reliability curve; the area of a point is the number of patches in its bin."""
    mean, right, count = reliability(probabilities, labels)
    figure = new_figure(4.2, 4.0, dpi=130)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#999", linestyle=":", linewidth=1)
    axes.plot(mean, right, color="#8a2f76", linewidth=1)
    axes.scatter(mean, right, s=15 + 250 * count / count.sum(), color="#8a2f76", alpha=0.75, linewidth=0)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability given to the called class")
    axes.set_ylabel("share that was right")
    axes.set_aspect("equal")
    axes.grid(alpha=0.25)
    if title:
        axes.set_title(literal(title), fontsize=10)
    save_figure(path, figure)
