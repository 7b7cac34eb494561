"""Who is judged on whom: one split for a test set, one per fold for cross-validation; and their cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wsitool.base.progress import SILENT, Reporter
from wsitool.classify.data import open_train_test
from wsitool.errors import UsageError
from wsitool.evaluation.labels import LabelledPatches
from wsitool.evaluation.splits import group_folds, holdout
from wsitool.experiment.plan import Arm, ExperimentPlan
from wsitool.store.collection import Collection, open_collection

__all__ = ["Cell", "EvaluationSplit", "View", "all_cells", "open_splits"]


@dataclass(frozen=True, kw_only=True)
class View:
    """Some rows of labelled patches; keeping the whole lets features be computed once for all splits."""

    whole: LabelledPatches
    rows: NDArray[np.int64]

    @property
    def patches(self) -> LabelledPatches:
        return self.whole.subset(self.rows)


@dataclass(frozen=True, kw_only=True)
class EvaluationSplit:
    """One training and test set. `unlabelled` is what pretraining may see: every patch of no test group."""

    name: str
    train: View
    test: View
    unlabelled: Collection


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm, fraction, label seed and split."""

    arm: Arm
    fraction: float
    seed: int
    split: int

    def file_name(self, plan: ExperimentPlan) -> str:
        name = open_splits(plan)[self.split].name
        # :g, so that 5 and 12.5 per cent read as people write them.
        return f"{self.arm.name}-{self.fraction * 100:g}pct-seed{self.seed}-{name}.npz"


def all_cells(plan: ExperimentPlan) -> list[Cell]:
    """The grid, ordered so that cells which share an encoder follow one another."""
    return [
        # Arm, then split, seed and fraction: what `chains_of` groups stands together already.
        Cell(arm=arm, fraction=fraction, seed=seed, split=number)
        for arm in plan.arms
        for number in range(len(open_splits(plan)))
        for seed in range(plan.seeds)
        for fraction in plan.fractions
    ]


# Two, as a plan and a changed one may meet; the plan is frozen and hashable, its paths are what is opened.
@lru_cache(maxsize=2)
def open_splits(plan: ExperimentPlan) -> tuple[EvaluationSplit, ...]:
    """Open the plan's data once per process; LabelError, StoreError or UsageError as `open_train_test`.

    Cached by the plan's value: the stores are taken to be the same for as long as the process lives.
    """
    return _splits(plan, SILENT)


def _splits(plan: ExperimentPlan, reporter: Reporter) -> tuple[EvaluationSplit, ...]:
    data = open_train_test(
        plan.train, plan.test or None, labels=plan.labels, split=plan.split, reporter=reporter
    )
    # Not only labelled patches: pretraining takes those without a label, too.
    everything = open_collection(plan.train)
    patches = data.train
    if data.test is not None:
        train = View(whole=patches, rows=np.arange(len(patches)))
        test = View(whole=data.test, rows=np.arange(len(data.test)))
        return (EvaluationSplit(name="test", train=train, test=test, unlabelled=everything),)
    if plan.folds is not None:
        fold_of = group_folds(patches.labels, patches.group_index, folds=plan.folds, seed=plan.seed)
        held_out = [(f"fold{fold + 1}", np.flatnonzero(fold_of == fold)) for fold in range(plan.folds)]
    else:
        split = holdout(patches.labels, patches.group_index, share=plan.test_share, seed=plan.seed)
        # `holdout` falls back to patches where groups are too few, which a test set must not.
        if split.by != "group":
            raise UsageError(
                "The training groups are too few to hold some out as a test with every class on both sides: "
                "give --test STORES, or --folds."
            )
        held_out = [("heldout", split.held_out)]
    return tuple(_split(name, patches, rows, everything) for name, rows in held_out)


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
        unlabelled=everything.subset(np.flatnonzero(~np.isin(everything.store_index, held_stores))),
    )
