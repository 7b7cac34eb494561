"""Labelled bags for training and test: labels of slides or patients, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsitool.base.groups import group_clashes
from wsitool.base.progress import Reporter
from wsitool.classify.data import Paths
from wsitool.errors import LabelError, UsageError
from wsitool.evaluation.labels import LabelTable, check_names, class_order, read_label_table
from wsitool.evaluation.leakage import check_separate
from wsitool.mil.bags import Bag, LabelledBags
from wsitool.mil.options import COUNTED, Level
from wsitool.mil.sources import Side, SlideRows, open_side
from wsitool.store.collection import Collection

__all__ = ["LabelledSides", "open_labelled"]

_NAMED_AT_MOST = 5


@dataclass(frozen=True, kw_only=True)
class LabelledSides:
    """Labelled training bags and, where there are any, test bags of the same classes, and their sources."""

    train: LabelledBags
    test: LabelledBags | None
    sides: tuple[Side, ...]

    @property
    def collections(self) -> tuple[Collection, ...]:
        """The stores of each side; none of features made elsewhere."""
        return tuple(side.collection for side in self.sides if side.collection is not None)

    @property
    def counts(self) -> tuple[LabelledBags, ...]:
        """Training bags, and test bags where there are any."""
        return (self.train,) if self.test is None else (self.train, self.test)


def open_labelled(
    train: Paths | Collection,
    test: Paths | Collection | None,
    *,
    level: Level,
    labels: str | Path | None,
    reporter: Reporter,
) -> LabelledSides:
    """Open and label both; StoreError, LabelError or UsageError naming what does not fit.

    Without a table `labels` a slide has the label that all its patches carry.
    """
    sides = tuple(open_side(paths) for paths in (train, test) if paths is not None)
    _check_kinds(sides)
    table = None if labels is None else read_label_table(labels, reporter=reporter)
    if table is not None:
        if table.patches:
            raise UsageError(
                f"'{labels}' has labels of single patches (x and y), and --level {level} wants one of each "
                f"{level}: leave out --level, or those rows."
            )
        check_names(table, (name for side in sides for slide in side.slides for name in _names(slide, level)))
    training = _labelled(sides[0], table, level, "training", reporter)
    if len(training.classes) < 2:
        raise LabelError(
            f"A classifier needs at least two classes, and all labelled {COUNTED[level]} are "
            f"{training.classes[0]}."
        )
    testing = None
    if len(sides) > 1:
        testing = _labelled(sides[1], table, level, "test", reporter, classes=training.classes)
        check_separate(training.groups.tolist(), testing.groups.tolist(), otherwise="")
    groups = [*training.groups.tolist(), *(testing.groups.tolist() if testing is not None else [])]
    if clashes := group_clashes(groups):
        reporter.warn(clashes)
    return LabelledSides(train=training, test=testing, sides=sides)


def _check_kinds(sides: Sequence[Side]) -> None:
    """UsageError where training and test are not of one kind of patches or features."""
    first, last = sides[0], sides[-1]
    if (first.collection is None) != (last.collection is None):
        raise UsageError("Training and --test are stores and features: pass stores for both, or features.")
    if (first.width, first.encoder) != (last.width, last.encoder):
        raise UsageError(
            f"The features of training ({first.width} values, '{first.encoder or 'not said'}') and --test "
            f"({last.width}, '{last.encoder or 'not said'}') are of different encoders: pass those of one."
        )
    if first.digest and last.digest and first.digest != last.digest:
        raise UsageError(
            "The features of training and --test are of different weights, image sizes or stain norms: make "
            "both by one 'wsitool embed'."
        )
    collections = [side.collection for side in sides if side.collection is not None]
    if len({collection.patch_size for collection in collections}) > 1:
        sizes = " and ".join(f"{collection.patch_size} px" for collection in collections)
        raise UsageError(f"Training and test patches are {sizes}: tile both with the same --patch-size.")


def _names(slide: SlideRows, level: Level) -> tuple[str, ...]:
    """What a row of the table may call a slide by: the image, its slide and, of patients, the patient."""
    return (slide.name, slide.store, *((slide.group,) if level == "patient" else ()))


def _labelled(
    side: Side,
    table: LabelTable | None,
    level: Level,
    what: str,
    reporter: Reporter,
    *,
    classes: tuple[str, ...] | None = None,
) -> LabelledBags:
    named = [_named(slide, table, level) for slide in side.slides]
    bags: dict[str | int, tuple[list[SlideRows], list[str], str]] = {}
    for number, (slide, (label, group)) in enumerate(zip(side.slides, named, strict=True)):
        slides, labels, _ = bags.setdefault(group if level == "patient" else number, ([], [], group))
        slides.append(slide)
        labels += [label] if label else []
    kept: list[tuple[Bag, str]] = []
    left_out: list[str] = []
    for slides, labels, group in bags.values():
        name = group if level == "patient" else slides[0].name
        if len(set(labels)) > 1:
            raise LabelError(
                f"The slides of patient '{group}' have different labels ({', '.join(sorted(set(labels)))}): "
                "--level patient wants one for all of them; correct the table, or use --level slide."
            )
        parts = tuple(slide.part for slide in slides if len(slide.part.rows))
        if not labels:
            left_out.append(name)
        elif not parts:
            raise LabelError(
                f"'{name}' is labelled {labels[0]} and has no patches: tile it with a lower --min-tissue, or "
                "take it out of the table."
            )
        else:
            kept.append((Bag(name=name, group=group, parts=parts), labels[0]))
    if not kept:
        raise LabelError(
            f"None of the {what} {COUNTED[level]} has a label: give --labels CSV (file,label[,group])."
        )
    if left_out:
        more = ", ..." if len(left_out) > _NAMED_AT_MOST else ""
        reporter.warn(
            f"{len(left_out)} of {len(bags)} {what} {COUNTED[level]} have no label and are left out: "
            f"{', '.join(left_out[:_NAMED_AT_MOST])}{more}."
        )
    order = class_order(sorted({label for _, label in kept}), classes, declared=side.classes)
    return LabelledBags(
        bags=tuple(bag for bag, _ in kept),
        classes=order,
        labels=np.array([order.index(label) for _, label in kept], np.int64),
    )


def _named(slide: SlideRows, table: LabelTable | None, level: Level) -> tuple[str, str]:
    """Label ("" for none) and patient of a slide."""
    if table is None:
        if len(slide.own) > 1:
            raise LabelError(
                f"The patches of '{slide.name}' carry several labels ({', '.join(slide.own)}), and --level "
                f"{level} wants one: give --labels CSV (file,label[,group])."
            )
        return (slide.own[0] if slide.own else ""), slide.group
    row = table.row_of(*_names(slide, level))
    return (row.label, row.group or slide.group) if row else ("", slide.group)
