"""Which patches are labelled: drawn beforehand, or asked for in rounds by a probe on the labels so far.

Of the rounds only the answers are labels: what is asked for follows from the features of all training patches
and from the labels that were given before, never from others, and test patches have no part in it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wsitool.classify.heads import fit_linear, head_logits
from wsitool.evaluation.amounts import Amount, Balance, Select, asks
from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.labels import LabelledPatches
from wsitool.evaluation.subsets import class_counts, class_orders, label_subset

__all__ = ["asked_first", "labelled_rows"]

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]
_START = 5  # patches of each class before the first question
_PENALTY = 0.01  # of the probe: a strong one, as it has few labels
_NEIGHBOURS = 20
_SAMPLE = 4096  # patches among which neighbours are looked for, so that the cost grows with the patches only
_ROWS = 1024
_LEAST_DISTANCE = 1e-6  # of copies of one patch


def labelled_rows(
    patches: LabelledPatches,
    amount: Amount,
    *,
    select: Select,
    balance: Balance,
    seed: int,
    features: Callable[[], Floats],
) -> Indices:
    """Sorted rows of `patches` whose labels are used: that of a smaller amount lie in those of a larger one.

    "random" and "spread" are `label_subset`; the others take as many labels as these in all, but of whatever
    classes the answers are, see `asked_first`. `features` gives (N, D) of `patches`, and is called only where
    something is asked. Raises what `class_counts` does.
    """
    labels, groups = patches.labels, patches.group_index
    if not asks(select):
        return label_subset(
            labels,
            amount,
            patches.classes,
            seed=seed,
            balance=balance,
            groups=groups if select == "spread" else None,
        )
    count = int(class_counts(labels, amount, patches.classes, balance=balance).sum())
    if count == len(patches):
        return np.arange(count)
    classes = len(patches.classes)
    typical = select == "typical-margin"
    return np.sort(asked_first(features(), labels, groups, classes, count=count, typical=typical, seed=seed))


def asked_first(
    features: Floats,
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    classes: int,
    *,
    count: int,
    typical: bool,
    seed: int,
) -> Indices:
    """The first `count` rows of features (N, D) in the order in which their labels are asked for.

    First 5 of each class, class by class and patients in turn. Then each round doubles the labels: logistic
    regression on those there are, fitted as the linear head, asks for the patches of least margin, the
    difference of the two highest probabilities (Scheffer et al. 2001, doi:10.1007/3-540-44816-0_31). With
    `typical` it asks for the highest (1 - margin) x typicality: information density (Settles & Craven 2008,
    https://aclanthology.org/D08-1112, beta = 1) whose density is TypiClust's typicality, one over
    the mean distance of features of unit length to their 20 nearest (Hacohen et al. 2022, arXiv:2202.02794),
    here of at most 4,096 patches. Ties go to the first row.

    A round's probe is fitted on at most half of the labels, so that all of them cost less than two fits on
    `count`.
    """
    order = _start(labels, groups, classes, seed)
    typicality = _typicality(features, seed) if typical and len(order) < count else None
    while len(order) < count:
        rest = np.setdiff1d(np.arange(len(labels)), order)
        probe, _ = fit_linear(features[order], labels[order], classes, penalties=[_PENALTY], weighted=True)
        probabilities = np.sort(softmax(head_logits(probe, features[rest])), axis=1)
        score = 1 - (probabilities[:, -1] - probabilities[:, -2])
        if typicality is not None:
            score *= typicality[rest]
        order = np.concatenate([order, rest[np.argsort(-score, kind="stable")[: len(order)]]])
    return order[:count]


def _start(labels: NDArray[np.integer], groups: NDArray[np.integer], classes: int, seed: int) -> Indices:
    """The first of each class, then the second of each: so that any beginning has all classes."""
    orders = class_orders(labels, classes, seed=seed, groups=groups)
    turns = [order[turn] for turn in range(_START) for order in orders if turn < len(order)]
    return np.array(turns, np.int64)


def _typicality(features: Floats, seed: int) -> NDArray[np.float64]:
    """(N,) one over the mean distance to the nearest of the others."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    sample = np.arange(len(unit))
    if len(unit) > _SAMPLE:
        sample = np.sort(np.random.default_rng((seed, 0x7F1C)).choice(len(unit), _SAMPLE, replace=False))
    nearest = min(_NEIGHBOURS, len(sample) - 1)
    distances = np.empty(len(unit))
    for start in range(0, len(unit), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(unit)))
        cosines = unit[rows] @ unit[sample].T
        # No patch is its own neighbour.
        cosines[rows[:, None] == sample] = -1
        highest = np.partition(cosines, -nearest, axis=1)[:, -nearest:]
        distances[rows] = np.sqrt(np.maximum(0, 2 - 2 * highest.astype(np.float64))).mean(axis=1)
    return 1 / np.maximum(distances, _LEAST_DISTANCE)
