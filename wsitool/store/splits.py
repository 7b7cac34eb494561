"""Splitting labelled patches so that no patient is on both sides, with the classes in proportion."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import LabelError, UsageError
from wsitool.store.options import SplitBy

__all__ = ["Split", "group_folds", "holdout", "patch_folds", "whole_folds"]

Indices = NDArray[np.int64]
_EXHAUSTIVE_GROUPS = 12  # 4,095 subsets; more groups than that are tried in random order
_RANDOM_TRIES = 2000
_SOLVER_SECONDS = 20.0  # milliseconds, as a rule


@dataclass(frozen=True, kw_only=True)
class Split:
    """Two disjoint, sorted index arrays, how they were parted, and what the user must be told (or "")."""

    train: Indices
    held_out: Indices
    by: SplitBy
    warning: str = ""


def holdout(
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    *,
    share: float = 0.2,
    seed: int = 0,
    by: SplitBy = "group",
    least_groups: int = 1,
) -> Split:
    """Hold out about `share` of the patches, whole groups together, every class on both sides.

    `labels` (N,) >= 0 and `groups` (N,) are integers. At least `least_groups` groups are held out where twice
    as many are there and every class allows it. Where no choice of whole groups leaves
    every class on both sides the split falls back to patches and `warning` says so. LabelError if a class has
    one patch.
    """
    if not 0 < share < 1:
        raise UsageError(f"The held-out share must be between 0 and 1, got {share:g}.")
    # Classes and groups without gaps from here on, so that `bincount` has no empty places.
    classes, labels = np.unique(labels, return_inverse=True)
    if np.bincount(labels).min() < 2:
        raise LabelError(
            "Every class needs at least 2 labels, one to train on and one to validate with: "
            "use a larger fraction, or label more."
        )
    if by == "patch":
        return _by_patch(labels, share, seed, "")
    names, groups = np.unique(groups, return_inverse=True)
    # (G, K) patches of each class in each group: all that the choice looks at.
    counts = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(counts, (groups, labels), 1)
    # A constant of its own for each draw from one seed, so that none repeats another's.
    held_out_groups = None
    for least in dict.fromkeys((least_groups, 1)):
        if held_out_groups is None and 2 * least <= max(2, len(names)):
            held_out_groups = _choose_groups(counts, share, least, np.random.default_rng((seed, 0x5911)))
    if held_out_groups is None:
        warning = (
            f"The {len(names)} group(s) are too few, or too unlike, to hold out whole groups with every "
            "class on both sides, so patches of one group are on both sides and the validation figures are "
            "optimistic."
        )
        return _by_patch(labels, share, seed, warning)
    is_held_out = np.isin(groups, held_out_groups)
    return Split(train=np.flatnonzero(~is_held_out), held_out=np.flatnonzero(is_held_out), by="group")


def group_folds(
    labels: NDArray[np.integer], groups: NDArray[np.integer], *, folds: int, seed: int = 0
) -> NDArray[np.int64]:
    """Give each patch a fold number in [0, folds), whole groups together: (N,) int64.

    Folds are filled by scikit-learn's StratifiedGroupKFold, shuffled by `seed`. UsageError for fewer groups
    than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    available = len(np.unique(groups))
    if not 2 <= folds <= available:
        raise UsageError(
            f"The number of folds must be between 2 and the number of groups, {available}; got {folds}."
        )
    fold_of = np.zeros(len(labels), np.int64)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    # scikit-learn looks at the labels only; the first argument gives the number of rows.
    for fold, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
        fold_of[held_out] = fold
    return fold_of


def whole_folds(
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    *,
    classes: int,
    most: int = 5,
    seed: int = 0,
) -> NDArray[np.int64] | None:
    """As `group_folds`, in as many folds up to `most` as leave every one of `classes` to train on in each.

    None where not even two do: the groups, or the patches of the rarest class, are too few.
    """
    rarest = int(np.bincount(labels, minlength=classes).min())
    for folds in range(min(most, len(np.unique(groups)), rarest), 1, -1):
        fold_of = group_folds(labels, groups, folds=folds, seed=seed)
        trained = [np.unique(labels[fold_of != fold]) for fold in range(folds)]
        # A fold may be left without a group.
        if len(np.unique(fold_of)) == folds and all(len(present) == classes for present in trained):
            return fold_of
    return None


def patch_folds(labels: NDArray[np.integer], *, folds: int, seed: int = 0) -> NDArray[np.int64]:
    """As `group_folds` with every patch a group of its own; each class needs at least `folds` patches."""
    from sklearn.model_selection import StratifiedKFold

    fold_of = np.zeros(len(labels), np.int64)
    splitter = StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(labels, labels)):
        fold_of[held_out] = fold
    return fold_of


def _by_patch(labels: NDArray[np.integer], share: float, seed: int, warning: str) -> Split:
    per_class: list[Indices] = []
    for index in range(int(labels.max()) + 1):
        # A stream for each class: labels of one class do not change what is drawn of another.
        members = np.random.default_rng((seed, 0x9A7C, index)).permutation(np.flatnonzero(labels == index))
        # At least one, and one left to train on.
        per_class.append(members[: min(max(1, round(share * len(members))), len(members) - 1)])
    # Sorted, like every index array of a split: stores are read in order.
    held_out = np.sort(np.concatenate(per_class))
    train = np.setdiff1d(np.arange(len(labels)), held_out)
    return Split(train=train, held_out=held_out, by="patch", warning=warning)


def _choose_groups(counts: Indices, share: float, least: int, rng: np.random.Generator) -> Indices | None:
    """The groups to hold out whose class counts are nearest to `share` of each class; ties by chance.

    At least `least` of them; None only where no choice has every class on both sides.
    """
    total = counts.sum(axis=0)
    best: tuple[float, Indices] | None = None
    for candidate in _candidates(len(counts), share, rng):
        if len(candidate) < least:
            continue
        # (K,) patches of each class that would be held out.
        counts_held_out = counts[candidate].sum(axis=0)
        if (counts_held_out == 0).any() or (counts_held_out == total).any():
            continue
        # Relative to each class: a rare class counts as much as a common one.
        distance = float(np.abs(counts_held_out / total - share).sum())
        if best is None or distance < best[0]:
            best = (distance, candidate)
    return _solved(counts, share, least, rng) if best is None else best[1]


def _solved(counts: Indices, share: float, least: int, rng: np.random.Generator) -> Indices | None:
    """As `_choose_groups`, by integer programming: chance rarely meets the one of many that has every class.

    With two groups of each of nine classes 512 of 262,144 choices have.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    groups, classes = counts.shape
    has = (counts > 0).T.astype(np.float64)  # (K, G)
    shares = (counts / counts.sum(axis=0)).T
    nothing, one_each = np.zeros((classes, classes)), np.eye(classes)
    # Variables: (G,) whether a group is held out, (K,) how far each class's share is off.
    rules = [
        LinearConstraint(np.hstack([has, nothing]), 1, has.sum(axis=1) - 1),
        LinearConstraint(np.hstack([shares, -one_each]), -np.inf, share),
        LinearConstraint(np.hstack([shares, one_each]), share, np.inf),
        LinearConstraint(np.hstack([np.ones((1, groups)), np.zeros((1, classes))]), least, groups),
    ]
    # Small costs by chance, so that each seed has a choice of its own among equals.
    cost = np.hstack([rng.uniform(0, 1e-3, groups), np.ones(classes)])
    solution = milp(
        cost,
        constraints=rules,
        integrality=np.hstack([np.ones(groups), np.zeros(classes)]),
        bounds=Bounds(0, np.hstack([np.ones(groups), np.full(classes, np.inf)])),
        options={"time_limit": _SOLVER_SECONDS},
    )
    return None if solution.x is None else np.flatnonzero(solution.x[:groups] > 0.5)


def _candidates(groups: int, share: float, rng: np.random.Generator) -> list[Indices]:
    # Shuffled even where all are tried: of equally good choices the first wins.
    order = rng.permutation(groups)
    if groups <= _EXHAUSTIVE_GROUPS:
        return [
            order[list(members)] for size in range(1, groups) for members in combinations(range(groups), size)
        ]
    # From half to twice the expected number, as groups differ in size.
    expected = max(1, round(share * groups))
    sizes = rng.integers(max(1, expected // 2), min(groups, 2 * expected), size=_RANDOM_TRIES)
    return [rng.permutation(groups)[:size] for size in sizes]
