"""What the next answers may be expected to bring, from the learning curve so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsitool.labelling.database import Point

__all__ = ["LEAST_POINTS", "MORE", "expected_gain"]

LEAST_POINTS = 4
MORE = 20  # answers


def expected_gain(points: Sequence[Point], labels: int) -> float | None:
    """By how much balanced accuracy is expected to rise with `MORE` labels; None below `LEAST_POINTS` points.

    By least squares of a - b / sqrt(labels), b >= 0, points weighted by their labels, as those of few are
    noise. An estimate: the curve is of cross-validation, and no better than that.
    """
    if len(points) < LEAST_POINTS:
        return None
    counts = np.array([point.labels for point in points], np.float64)
    values = np.array([point.value for point in points])
    x = 1 / np.sqrt(counts)
    x_mean, y_mean = np.average(x, weights=counts), np.average(values, weights=counts)
    spread = float((counts * (x - x_mean) ** 2).sum())
    slope = float((counts * (x - x_mean) * (values - y_mean)).sum()) / spread if spread > 0 else 0.0
    rise = max(0.0, -slope) * (1 / np.sqrt(labels) - 1 / np.sqrt(labels + MORE))
    # Nothing is better than always right.
    return float(min(rise, max(0.0, 1 - values[-1])))
