"""How far several people agree, beyond what chance would make them: Cohen's and Fleiss' kappa."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["cohen_kappa", "fleiss_kappa"]

Labels = NDArray[np.integer]


def cohen_kappa(a: Labels, b: Labels, classes: int) -> float | None:
    """Of two people's labels (N,) of the same things, below `classes`.

    Cohen 1960, doi:10.1177/001316446002000104. None where chance alone would agree always, or
    there is nothing.
    """
    if not len(a):
        return None
    shares = [np.bincount(one, minlength=classes) / len(one) for one in (a, b)]
    return _beyond(float(np.mean(a == b)), float(shares[0] @ shares[1]))


def fleiss_kappa(labels: Labels, classes: int) -> float | None:
    """Of R >= 2 people's labels (N, R) of the same things, below `classes`.

    Fleiss 1971, doi:10.1037/h0031619. None as in `cohen_kappa`, from which it differs also for two
    people: chance is one and the same for all.
    """
    things, people = labels.shape
    if not things or people < 2:
        return None
    counts = np.stack([np.bincount(row, minlength=classes) for row in labels]).astype(np.float64)  # (N, K)
    agreeing = ((counts**2).sum(axis=1) - people) / (people * (people - 1))
    shares = counts.sum(axis=0) / counts.sum()
    return _beyond(float(agreeing.mean()), float(shares @ shares))


def _beyond(agreed: float, chance: float) -> float | None:
    return None if chance >= 1 else (agreed - chance) / (1 - chance)
