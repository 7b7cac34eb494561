"""What a classifier is trained and tested on: opened, labelled, checked for leaks before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wsitool.base.groups import group_clashes
from wsitool.base.paths import AnyPath
from wsitool.base.progress import Reporter
from wsitool.errors import LabelError, UsageError
from wsitool.evaluation.labels import (
    LabelledPatches,
    check_table,
    label_patches,
    read_label_table,
    shared_patches,
)
from wsitool.evaluation.leakage import check_separate, shared_groups
from wsitool.store.collection import Collection, open_collection
from wsitool.store.options import SplitBy

__all__ = ["Paths", "TrainTest", "open_train_test"]

Paths = AnyPath | Iterable[AnyPath]


@dataclass(frozen=True, kw_only=True)
class TrainTest:
    """Labelled training patches and, where there are any, test patches with the same classes."""

    train: LabelledPatches
    test: LabelledPatches | None


def open_train_test(
    train: Paths | Collection,
    test: Paths | Collection | None,
    *,
    labels: str | Path | None,
    split: SplitBy,
    reporter: Reporter,
) -> TrainTest:
    """Open and label both; refuse groups on both sides unless the split is by patch.

    Raises StoreError, LabelError or UsageError, each naming what does not fit.
    """
    # Both opened before labels are read: a path that is wrong costs nothing yet.
    train_stores = _opened(train)
    test_stores = None if test is None else _opened(test)
    table = None
    if labels is not None:
        table = read_label_table(labels, reporter=reporter)
        # Against both sides at once: a row of the table may belong to either.
        check_table(table, [train_stores, *([test_stores] if test_stores is not None else [])])
    training = label_patches(train_stores, table=table)
    if len(training.classes) < 2:
        raise LabelError(
            f"A classifier needs at least two classes, and all labelled patches are {training.classes[0]}."
        )
    _say_left_out(training, train_stores, "training", reporter)
    # Declared by the stores or named in the table, as opposed to carried by a patch.
    declared = train_stores.classes if table is None else table.classes
    _warn_of_absent(declared, training, "training", reporter)
    sides = training.groups.tolist()
    if test_stores is None:
        _tell_of_groups(sides, reporter)
        if split == "patch":
            reporter.warn("--split patch leaks: patients are on both sides of training and validation.")
        return TrainTest(train=training, test=None)
    # With the training classes and their numbers; a label unknown to training is an error there.
    testing = label_patches(test_stores, table=table, classes=training.classes)
    _say_left_out(testing, test_stores, "test", reporter)
    _warn_of_absent(training.classes, testing, "test", reporter)
    # Patches of other sizes could be resized, and would be of another field of view.
    if testing.collection.patch_size != training.collection.patch_size:
        raise UsageError(
            f"Training patches are {training.collection.patch_size} px and test patches "
            f"{testing.collection.patch_size} px: tile both with the same --patch-size."
        )
    _tell_of_groups(sides + testing.groups.tolist(), reporter)
    _check_groups(training, testing, split, reporter)
    return TrainTest(train=training, test=testing)


def _opened(stores: Paths | Collection) -> Collection:
    return stores if isinstance(stores, Collection) else open_collection(stores)


def _tell_of_groups(groups: list[str], reporter: Reporter) -> None:
    """Of both sides together: a patient spelled in two ways may be on both."""
    if clashes := group_clashes(groups):
        reporter.warn(clashes)


def _check_groups(train: LabelledPatches, test: LabelledPatches, split: SplitBy, reporter: Reporter) -> None:
    if split == "group":
        check_separate(train.groups.tolist(), test.groups.tolist())
        return
    shared = shared_groups(train.groups.tolist(), test.groups.tolist())
    same = shared_patches(train, test)
    if same:
        raise UsageError(f"{same} of the test patches are training patches too: pass other stores to --test.")
    reporter.warn(
        f"--split patch leaks: {len(shared)} group(s) are in both training and test data, so the figures say "
        "little about new patients."
    )


def _say_left_out(patches: LabelledPatches, collection: Collection, what: str, reporter: Reporter) -> None:
    left = len(collection) - len(patches)
    if left:
        reporter.say(f"{left} of {len(collection)} {what} patches have no label and are left out.")


def _warn_of_absent(declared: Iterable[str], patches: LabelledPatches, what: str, reporter: Reporter) -> None:
    """A class that is named and has no patch would be missing from every figure without a word."""
    there = {patches.classes[index] for index in set(patches.labels.tolist())}
    absent = sorted(set(declared) - there)
    if absent:
        reporter.warn(
            f"No {what} patch is labelled {', '.join(absent)}: the figures say nothing of that class."
        )
