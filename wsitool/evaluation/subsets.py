"""Which labels are used: class-balanced, nested, and the same for every arm of an experiment."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import LabelError, UsageError

__all__ = ["balanced_subset", "per_class_count", "subset_hash"]

Indices = NDArray[np.int64]


def per_class_count(labels: NDArray[np.integer], fraction: float, classes: Sequence[str]) -> int:
    """How many patches of each class a fraction keeps: k = floor(fraction x smallest class).

    `labels` (N,) index `classes`; negative ones are unlabelled and do not count. UsageError for a fraction
    outside (0, 1]; LabelError for a class without patches, or a fraction that leaves each class none.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"The label fraction must be above 0 and at most 1, got {fraction:g}.")
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    missing = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if missing:
        raise LabelError(f"Every class needs labelled patches, but there are none of {', '.join(missing)}.")
    smallest = int(counts.min())
    # 0.28 * 25 is 7.000000000000001 and 0.29 * 100 is 28.999999999999996: round the noise off first.
    k = int(np.floor(round(fraction * smallest, 9)))
    if k == 0:
        name = classes[int(counts.argmin())]
        raise LabelError(
            f"A fraction of {fraction:g} leaves no sample of class {name}, which has {smallest} patches: "
            f"use a fraction of at least {1 / smallest:.3g}, or label more patches."
        )
    return k


def balanced_subset(
    labels: NDArray[np.integer], fraction: float, classes: Sequence[str], *, seed: int
) -> Indices:
    """Pick k = `per_class_count` patches of each class: sorted indices into `labels`.

    The same (labels, seed) gives nested subsets: that of a smaller fraction lies in that of a larger one.
    """
    k = per_class_count(labels, fraction, classes)
    per_class = [
        # A stream for each class, and the first k of one permutation: hence nested, whatever the fraction.
        np.random.default_rng((seed, index)).permutation(np.flatnonzero(labels == index))[:k]
        for index in range(len(classes))
    ]
    return np.sort(np.concatenate(per_class)).astype(np.int64)


def subset_hash(keys: Sequence[str]) -> str:
    """SHA-256 over the sorted identities of patches ("content hash of the store:row:class")."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()
