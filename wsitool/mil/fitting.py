"""From labelled bags to a fitted head, and what it says of other bags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from wsitool.backbones.device import choose_device
from wsitool.base.progress import Reporter
from wsitool.classify.outputs import Part
from wsitool.errors import PluginError
from wsitool.evaluation.amounts import Amount, Select
from wsitool.evaluation.calibration import fit_temperature
from wsitool.evaluation.subsets import label_subset
from wsitool.mil.bags import BagReader, LabelledBags, SlideBags
from wsitool.mil.head_contract import FittedSlideHead
from wsitool.mil.head_registry import SLIDE_HEADS
from wsitool.mil.model import judge_bag
from wsitool.mil.options import SlideSettings
from wsitool.store.splits import Split, group_folds, holdout

__all__ = ["FittedBags", "SlideTask", "cross_validate", "joined", "logits_of"]


@dataclass(frozen=True, kw_only=True)
class FittedBags:
    """A fitted head with the labels it was given; `split` indexes them.

    `validation_logits` (V, K) are of what was held out, None where nothing was.
    """

    fitted: FittedSlideHead
    subset: LabelledBags
    split: Split
    validation_logits: NDArray[np.float64] | None
    temperature: float


@dataclass(frozen=True, kw_only=True)
class SlideTask:
    """What every step of one run needs."""

    train: LabelledBags
    test: LabelledBags | None
    settings: SlideSettings
    amount: Amount
    select: Select
    seed: int
    feature_dim: int
    reader: BagReader
    reporter: Reporter

    def rows(self, inside: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the rows `inside` of the training bags whose labels are used."""
        bags = self.train.subset(inside)
        picked: NDArray[np.int64] = inside[
            label_subset(
                bags.labels,
                self.amount,
                bags.classes,
                seed=self.seed,
                balance=self.settings.balance,
                groups=bags.group_index if self.select == "spread" else None,
                what=self.settings.counted,
            )
        ]
        return picked

    def fit(self, inside: NDArray[np.int64]) -> FittedBags:
        """Train on the labelled ones of the rows `inside`; warns where the split had to fall back."""
        subset = self.train.subset(self.rows(inside))
        split = self._split(subset)
        fitted = self._fitted(subset, split)
        split = replace(split, warning=" ".join(filter(None, (split.warning, fitted.warning))))
        if split.warning:
            self.reporter.warn(split.warning)
        logits = logits_of(fitted.head, subset.subset(split.held_out), self) if len(split.held_out) else None
        temperature = 1.0
        if logits is not None:
            temperature = fit_temperature(logits, subset.labels[split.held_out])
        elif fitted.unseen is not None:
            # By other heads of the same choices: the nearest there is to unseen ones.
            temperature = fit_temperature(fitted.unseen, subset.labels[split.train])
        return FittedBags(
            fitted=fitted, subset=subset, split=split, validation_logits=logits, temperature=temperature
        )

    def _split(self, subset: LabelledBags) -> Split:
        share = self.settings.held_out_of(len(subset))
        if share == 0:
            return Split(train=np.arange(len(subset)), held_out=np.zeros(0, np.int64), by="group")
        return holdout(subset.labels, subset.group_index, share=share, seed=self.seed)

    def _fitted(self, subset: LabelledBags, split: Split) -> FittedSlideHead:
        entry = SLIDE_HEADS.get(self.settings.head)
        bags = SlideBags(
            labels=subset.labels,
            groups=subset.group_index,
            classes=len(subset.classes),
            feature_dim=self.feature_dim,
            train=split.train,
            held_out=split.held_out,
            bags=subset.bags,
            reader=self.reader,
            reporter=self.reporter,
        )
        fitted: Any = SLIDE_HEADS.call(entry, entry.fit, bags, self.settings, seed=self.seed)
        if not isinstance(fitted, FittedSlideHead):
            raise PluginError(
                f"{SLIDE_HEADS.who(entry)} must give a wsitool.FittedSlideHead, got {fitted!r:.80}: run "
                f"'wsitool plugin check {entry.name}'."
            )
        fitted.head.eval()
        return fitted


def logits_of(head: nn.Module, bags: LabelledBags, task: SlideTask) -> NDArray[np.float64]:
    """Logits (M, K) of bags by a head, which is moved to the device."""
    entry = SLIDE_HEADS.get(task.settings.head)
    head.to(choose_device(task.settings.device))
    judged: list[NDArray[np.float64]] = []
    with task.reporter.task("predict", total=len(bags), unit=task.settings.counted) as progress:
        for bag in bags.bags:
            one = SLIDE_HEADS.guard(entry, judge_bag, head, task.reader.read(bag), each=False)
            judged.append(one.logits)
            progress.advance(note=bag.name)
    head.cpu()
    return np.stack(judged)


def cross_validate(task: SlideTask, folds: int) -> list[Part[LabelledBags]]:
    """Out-of-fold predictions: every patient is judged by a head that has not seen any of its slides."""
    bags = task.train
    fold_of = group_folds(bags.labels, bags.group_index, folds=folds, seed=task.seed)
    parts: list[Part[LabelledBags]] = []
    with task.reporter.task("folds", total=folds, unit="folds") as progress:
        for fold in range(folds):
            fit = task.fit(np.flatnonzero(fold_of != fold))
            held_out = bags.subset(np.flatnonzero(fold_of == fold))
            logits = logits_of(fit.fitted.head, held_out, task)
            parts.append(
                Part(name=f"fold {fold + 1}", patches=held_out, logits=logits, temperature=fit.temperature)
            )
            progress.advance()
    return parts


def joined(parts: Sequence[Part[LabelledBags]]) -> LabelledBags:
    """The bags of all parts in the order of their predictions."""
    return LabelledBags(
        bags=tuple(bag for part in parts for bag in part.patches.bags),
        classes=parts[0].patches.classes,
        labels=np.concatenate([part.patches.labels for part in parts]),
    )
