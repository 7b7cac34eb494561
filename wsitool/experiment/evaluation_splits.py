"""Who is judged on whom: one split for a test set, one per fold for cross-validation; and their cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from wsitool.base.progress import SILENT, Reporter
from wsitool.classify.data import open_train_test
from wsitool.classify.selection import labelled_rows as rows_of
from wsitool.errors import UsageError
from wsitool.evaluation.amounts import Amount, Select, asks
from wsitool.evaluation.labels import LabelledPatches
from wsitool.evaluation.subsets import patients_in_turn
from wsitool.experiment.judged import cell_names
from wsitool.experiment.plan import Arm, ExperimentPlan, order_of
from wsitool.mil.bags import LabelledBags
from wsitool.mil.data import open_labelled
from wsitool.mil.sources import Side
from wsitool.store.collection import Collection, open_collection
from wsitool.store.splits import group_folds, holdout

__all__ = [
    "LEAST_TEST_GROUPS",
    "Cell",
    "EvaluationSplit",
    "View",
    "all_cells",
    "auxiliary_data",
    "judging_problems",
    "labelled_rows",
    "open_splits",
]


LEAST_TEST_GROUPS = 5  # of fewer patients hardly anything can be said of others


@dataclass(frozen=True, kw_only=True)
class View:
    """Some rows of labelled patches; keeping the whole lets features be computed once for all splits.

    With labels of slides or patients it is of `LabelledBags`, which take the place of patches in all that
    looks at labels, groups and names only; `side` is then where the bags are from.
    """

    whole: LabelledPatches
    rows: NDArray[np.int64]
    side: Side | None = None

    @property
    def patches(self) -> LabelledPatches:
        return self.whole.subset(self.rows)

    @property
    def bags(self) -> LabelledBags:
        """The whole, where it is of bags; ValueError for patches."""
        whole: object = self.whole
        if not isinstance(whole, LabelledBags):
            raise ValueError("Labels of patches are of no bags.")
        return whole

    @property
    def collection(self) -> Collection | None:
        """The whole's patches in stores; None of features made elsewhere."""
        return self.whole.collection if self.side is None else self.side.collection


@dataclass(frozen=True, kw_only=True)
class EvaluationSplit:
    """One training and test set.

    `seen` is what pretraining may see, every patch of no test group; None of features made elsewhere.
    """

    name: str
    train: View
    test: View
    seen: Collection | None

    @property
    def unlabelled(self) -> Collection:
        """`seen`; UsageError where there are no patches."""
        if self.seen is None:
            raise UsageError("Pretraining needs patches: give --train stores in place of features.")
        return self.seen

    @property
    def views(self) -> tuple[View, ...]:
        """Training and test side, of one whole or of two."""
        return (self.train, self.test)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm, fraction, label seed and split, and the order in which patches are labelled."""

    arm: Arm
    fraction: Amount
    seed: int
    split: int
    select: Select = "spread"

    @property
    def asks(self) -> bool:
        """Whether its labels depend on the features of its encoder."""
        return asks(self.select)

    def file_names(self, plan: ExperimentPlan) -> tuple[str, ...]:
        """The file it is written to, then others that it may be found in."""
        part = open_splits(plan)[self.split].name
        return cell_names(self.arm, self.fraction, self.select, self.seed, part)


def all_cells(plan: ExperimentPlan) -> list[Cell]:
    """The grid, ordered so that cells which share an encoder follow one another."""
    cells = [
        # Arm, then split, seed and fraction: what `chains_of` groups stands together already.
        Cell(arm=arm, fraction=fraction, seed=seed, split=number, select=order_of(plan, fraction, select))
        for arm in plan.arms
        for number in range(len(open_splits(plan)))
        for seed in range(plan.most_seeds)
        for select in plan.select
        for fraction in plan.amounts
        if seed < plan.seeds_of(fraction)
    ]
    return list(dict.fromkeys(cells))


def labelled_rows(
    plan: ExperimentPlan,
    split: EvaluationSplit,
    cell: Cell,
    features: Callable[[], NDArray[np.float32]] | None = None,
) -> NDArray[np.int64]:
    """Sorted rows of the split's training patches whose labels a cell uses.

    The same for every arm unless it asks: then `features` must give those of the training patches, (N, D).
    """

    def missing() -> NDArray[np.float32]:
        raise ValueError(f"Labels in the order {cell.select} depend on features.")

    return rows_of(
        split.train.patches,
        cell.fraction,
        select=cell.select,
        balance=plan.balance,
        seed=cell.seed,
        features=features or missing,
    )


@lru_cache(maxsize=16)  # asked for each cell, and drawing takes a while
def auxiliary_data(plan: ExperimentPlan, arm: Arm) -> Collection:
    """The auxiliary patches that an arm sees; of a number of them patients in turn, nested in larger ones.

    UsageError where there are not so many; StoreError as `open_collection`.
    """
    patches = _auxiliary_stores(plan.auxiliaries[arm.auxiliary])
    if arm.patches is None:
        return patches
    if arm.patches > len(patches):
        raise UsageError(
            f"The arm {arm.name} asks for {arm.patches:,} patches, and there are {len(patches):,}: ask for "
            "fewer, or leave the number out."
        )
    order = np.random.default_rng((plan.seed, 0xA0C5)).permutation(len(patches))
    order = order[patients_in_turn(patches.group_index[order])]
    return patches.subset(np.sort(order[: arm.patches]))


@lru_cache(maxsize=4)  # once for all arms that take some of them
def _auxiliary_stores(paths: tuple[str, ...]) -> Collection:
    return open_collection(paths)


def judging_problems(splits: Sequence[EvaluationSplit], one: str = "patch") -> list[str]:
    """What must be said of the test sides: too few patients in all, or a class that nothing is judged on.

    `one` is what has a label.
    """
    groups = {group for split in splits for group in split.test.patches.groups.tolist()}
    lines = []
    if len(groups) < LEAST_TEST_GROUPS:
        lines.append(
            f"The figures rest on {len(groups)} test group{'' if len(groups) == 1 else 's'} (patients): "
            f"fewer than {LEAST_TEST_GROUPS} say next to nothing of others; label more patients, or use "
            "--folds."
        )
    for split in splits:
        patches = split.test.patches
        counts = np.bincount(patches.labels, minlength=len(patches.classes))
        absent = [name for name, count in zip(patches.classes, counts, strict=True) if not count]
        if absent:
            lines.append(
                f"{split.name}: no test {one} is {' or '.join(absent)}: how well that is recognised is not "
                "known, and means over classes leave it out."
            )
    return lines


# Two, as a plan and a changed one may meet; the plan is frozen and hashable, its paths are what is opened.
@lru_cache(maxsize=2)
def open_splits(plan: ExperimentPlan) -> tuple[EvaluationSplit, ...]:
    """Open the plan's data once per process; LabelError, StoreError or UsageError as `open_train_test`.

    Cached by the plan's value: the stores are taken to be the same for as long as the process lives.
    """
    return _splits(plan, SILENT)


def _splits(plan: ExperimentPlan, reporter: Reporter) -> tuple[EvaluationSplit, ...]:
    if plan.of_slides:
        return _of_slides(plan, reporter)
    # Not only labelled patches: pretraining takes those without a label, too.
    everything = open_collection(plan.train)
    data = open_train_test(
        everything, plan.test or None, labels=plan.labels, split=plan.split, reporter=reporter
    )
    patches = data.train
    if data.test is not None:
        train = View(whole=patches, rows=np.arange(len(patches)))
        test = View(whole=data.test, rows=np.arange(len(data.test)))
        return (EvaluationSplit(name="test", train=train, test=test, seen=everything),)
    held_out = _held_out(plan, patches.labels, patches.group_index)
    return tuple(_split(name, patches, rows, everything) for name, rows in held_out)


def _held_out(
    plan: ExperimentPlan, labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> list[tuple[str, NDArray[np.int64]]]:
    """Name and test rows of each split that the training data are divided into."""
    if plan.folds is not None:
        fold_of = group_folds(labels, groups, folds=plan.folds, seed=plan.seed)
        return [(f"fold{fold + 1}", np.flatnonzero(fold_of == fold)) for fold in range(plan.folds)]
    split = holdout(labels, groups, share=plan.test_share, seed=plan.seed, least_groups=LEAST_TEST_GROUPS)
    # `holdout` falls back to patches where groups are too few, which a test set must not.
    if split.by != "group":
        raise UsageError(
            "The training groups are too few, or too unlike, to hold some out as a test with every class "
            "on both sides: give --test STORES, or --folds."
        )
    return [("heldout", split.held_out)]


def _of_slides(plan: ExperimentPlan, reporter: Reporter) -> tuple[EvaluationSplit, ...]:
    """The same of labelled slides or patients, as `classify --level` opens and splits them."""
    data = open_labelled(
        plan.train, plan.test or None, level=plan.level, labels=plan.labels, reporter=reporter
    )
    side = data.sides[0]

    def view(bags: LabelledBags, rows: NDArray[np.int64], side: Side) -> View:
        return View(whole=cast(LabelledPatches, bags), rows=rows, side=side)

    if data.test is not None:
        train = view(data.train, np.arange(len(data.train)), side)
        test = view(data.test, np.arange(len(data.test)), data.sides[1])
        return (EvaluationSplit(name="test", train=train, test=test, seen=side.collection),)
    bags = data.train
    return tuple(
        EvaluationSplit(
            name=name,
            train=view(bags, np.setdiff1d(np.arange(len(bags)), rows), side),
            test=view(bags, rows, side),
            seen=_without_stores(side.collection, bags.subset(rows)),
        )
        for name, rows in _held_out(plan, bags.labels, bags.group_index)
    )


def _without_stores(everything: Collection | None, held_out: LabelledBags) -> Collection | None:
    """Without stores that have any patch of what is held out."""
    if everything is None:
        return None
    held = {part.path for bag in held_out.bags for part in bag.parts}
    numbers = [number for number, store in enumerate(everything.stores) if Path(store.path) in held]
    return everything.subset(np.flatnonzero(~np.isin(everything.store_index, numbers)))


def _split(
    name: str, patches: LabelledPatches, held_out: NDArray[np.int64], everything: Collection
) -> EvaluationSplit:
    # Labels may name other groups than the stores do; a store with any test patch is kept from pretraining.
    held_stores = np.unique(patches.collection.store_index[held_out])
    # Rows that are not held out, in order.
    inside = np.setdiff1d(np.arange(len(patches)), held_out)
    return EvaluationSplit(
        name=name,
        train=View(whole=patches, rows=inside),
        test=View(whole=patches, rows=held_out),
        seen=everything.subset(np.flatnonzero(~np.isin(everything.store_index, held_stores))),
    )
