"""Which labels are used: nested over the amounts, and the same for every arm of an experiment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import LabelError, UsageError
from wsitool.evaluation.amounts import Amount, Balance, PerClass

__all__ = ["class_counts", "class_orders", "label_subset", "patients_in_turn"]

Indices = NDArray[np.int64]


def class_counts(
    labels: NDArray[np.integer],
    amount: Amount,
    classes: Sequence[str],
    *,
    balance: Balance = "weighted",
    what: str = "patches",
) -> Indices:
    """How many patches of each class an amount keeps: (K,).

    `labels` (N,) index `classes`; negative ones are unlabelled and do not count. "weighted" takes the share
    `amount` of every class, rounded; "subset", the study's, floor(amount x smallest class) of each; a
    `PerClass` its count of each. UsageError for a share outside (0, 1]; LabelError for a class without
    patches (or `what` else is labelled), or of which none or too few are left.
    """
    if not isinstance(amount, PerClass) and not 0 < amount <= 1:
        raise UsageError(f"The label fraction must be above 0 and at most 1, got {amount:g}.")
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    missing = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if missing:
        raise LabelError(f"Every class needs labelled {what}, but there are none of {', '.join(missing)}.")
    rarest, smallest = classes[int(counts.argmin())], int(counts.min())
    if isinstance(amount, PerClass):
        if smallest < amount.count:
            raise LabelError(
                f"{amount.count} labels of each class were asked for, and {rarest} has {smallest} {what} to "
                f"train on: ask for fewer, or label more {what}."
            )
        return np.full(len(classes), amount.count, np.int64)
    # 0.28 * 25 is 7.000000000000001 and 0.29 * 100 is 28.999999999999996: round the noise off first.
    if balance == "subset":
        kept = np.full(len(classes), np.floor(round(amount * smallest, 9)), np.int64)
    else:
        kept = np.floor(np.round(amount * counts, 9) + 0.5).astype(np.int64)
    if kept.min() == 0:
        least = 1 / smallest if balance == "subset" else 0.5 / smallest
        raise LabelError(
            f"A fraction of {amount:g} leaves no sample of class {rarest}, which has {smallest} {what}: "
            f"use a fraction of at least {least:.3g}, or label more {what}."
        )
    return kept


def label_subset(
    labels: NDArray[np.integer],
    amount: Amount,
    classes: Sequence[str],
    *,
    seed: int,
    balance: Balance = "weighted",
    groups: NDArray[np.integer] | None = None,
    what: str = "patches",
) -> Indices:
    """Pick `class_counts` patches of each class: sorted indices into `labels`.

    With `groups` (N,) patients come in turn, with a patch at random of each, else patches at random. The
    same (labels, groups, seed) gives nested subsets: that of a smaller amount lies in that of a larger one.
    """
    counts = class_counts(labels, amount, classes, balance=balance, what=what)
    # The first of one order: hence nested, whatever the amount.
    orders = class_orders(labels, len(classes), seed=seed, groups=groups)
    firsts = [order[:count] for order, count in zip(orders, counts, strict=True)]
    return np.sort(np.concatenate(firsts)).astype(np.int64)


def class_orders(
    labels: NDArray[np.integer], classes: int, *, seed: int, groups: NDArray[np.integer] | None = None
) -> list[Indices]:
    """For each class all its patches in the order in which `label_subset` takes them."""
    orders = []
    for index in range(classes):
        # A stream for each class: patches of one do not change what is drawn of another.
        order = np.random.default_rng((seed, index)).permutation(np.flatnonzero(labels == index))
        orders.append(order if groups is None else order[patients_in_turn(groups[order])])
    return orders


def patients_in_turn(groups: NDArray[np.integer]) -> Indices:
    """An order of patches of `groups` (N,) in which every group's first comes before any group's second.

    Within a round they stay as they were, so that shuffled patches give shuffled patients.
    """
    by_group = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[by_group], return_index=True, return_counts=True)
    turn = np.empty(len(groups), np.int64)
    turn[by_group] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return np.argsort(turn, kind="stable")
