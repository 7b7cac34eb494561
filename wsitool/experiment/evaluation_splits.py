"""Who is judged on whom: one round for a test set, one per fold for cross-validation; and their cells."""

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
from wsitool.experiment.plan import Arm, Plan
from wsitool.store.collection import Collection, open_collection

__all__ = ["Cell", "Round", "View", "all_cells", "open_rounds"]


@dataclass(frozen=True, kw_only=True)
class View:
    """Some rows of labelled patches; keeping the whole lets features be computed once for all rounds."""

    whole: LabelledPatches
    rows: NDArray[np.int64]

    @property
    def patches(self) -> LabelledPatches:
        return self.whole.subset(self.rows)


@dataclass(frozen=True, kw_only=True)
class Round:
    """One training and test set. `unlabelled` is what pretraining may see: every patch of no test group."""

    name: str
    train: View
    test: View
    unlabelled: Collection


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm, fraction, label seed and round."""

    arm: Arm
    fraction: float
    seed: int
    round: int

    def file_name(self, plan: Plan) -> str:
        name = open_rounds(plan)[self.round].name
        return f"{self.arm.name}-{self.fraction * 100:g}pct-seed{self.seed}-{name}.npz"


def all_cells(plan: Plan) -> list[Cell]:
    """The grid, ordered so that cells which share an encoder follow one another."""
    return [
        Cell(arm=arm, fraction=fraction, seed=seed, round=number)
        for arm in plan.arms
        for number in range(len(open_rounds(plan)))
        for seed in range(plan.seeds)
        for fraction in plan.fractions
    ]


@lru_cache(maxsize=2)
def open_rounds(plan: Plan) -> tuple[Round, ...]:
    """Open the plan's data once per process; LabelError, StoreError or UsageError as `open_train_test`."""
    return _rounds(plan, SILENT)


def _rounds(plan: Plan, reporter: Reporter) -> tuple[Round, ...]:
    data = open_train_test(
        plan.train, plan.test or None, labels=plan.labels, split=plan.split, reporter=reporter
    )
    everything = open_collection(plan.train)
    whole = data.train
    if data.test is not None:
        train = View(whole=whole, rows=np.arange(len(whole)))
        test = View(whole=data.test, rows=np.arange(len(data.test)))
        return (Round(name="test", train=train, test=test, unlabelled=everything),)
    if plan.folds is not None:
        fold_of = group_folds(whole.labels, whole.group_index, folds=plan.folds, seed=plan.seed)
        held = [(f"fold{fold + 1}", np.flatnonzero(fold_of == fold)) for fold in range(plan.folds)]
    else:
        split = holdout(whole.labels, whole.group_index, share=plan.test_share, seed=plan.seed)
        if split.by != "group":
            raise UsageError(
                "The training groups are too few to hold some out as a test with every class on both sides: "
                "give --test STORES, or --folds."
            )
        held = [("heldout", split.held_out)]
    return tuple(_round(name, whole, rows, everything) for name, rows in held)


def _round(name: str, whole: LabelledPatches, held: NDArray[np.int64], everything: Collection) -> Round:
    # Labels may name other groups than the stores do; a store with any test patch is kept from pretraining.
    held_stores = np.unique(whole.collection.store_index[held])
    inside = np.setdiff1d(np.arange(len(whole)), held)
    return Round(
        name=name,
        train=View(whole=whole, rows=inside),
        test=View(whole=whole, rows=held),
        unlabelled=everything.subset(np.flatnonzero(~np.isin(everything.store_index, held_stores))),
    )
