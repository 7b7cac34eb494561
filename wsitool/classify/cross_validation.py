"""The steps of one classification run: train on a subset of the labels, predict what was held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.backbones.encoder import Encoder
from wsitool.base.progress import Reporter
from wsitool.classify.data import TrainTest
from wsitool.classify.feature_files import features_of
from wsitool.classify.fit import Features, Fitted, fit_classifier
from wsitool.classify.heads import head_logits
from wsitool.classify.logits import predict_logits
from wsitool.classify.outputs import Part
from wsitool.classify.settings import Select, Settings
from wsitool.evaluation.labels import LabelledPatches
from wsitool.evaluation.splits import group_folds
from wsitool.evaluation.subsets import label_subset

__all__ = ["ClassificationTask", "all_parts", "cross_validate", "test_part", "validation_part"]


@dataclass(frozen=True, kw_only=True)
class ClassificationTask:
    """What every step of one run needs; `encoder` builds a fresh one each time."""

    data: TrainTest
    settings: Settings
    amount: float
    select: Select
    seed: int
    image_size: int
    encoder: Callable[[], Encoder]
    cache: Path | None
    reporter: Reporter

    def features(self, patches: LabelledPatches) -> Features | None:
        """Features of frozen encoders; None where the encoder is going to change.

        (N, D) float32 of all `patches`, row for row; with a `cache` they are computed once for many runs.
        """
        if not self.settings.frozen:
            return None
        return features_of(
            self.encoder(),
            patches.collection,
            image_size=self.image_size,
            batch_size=self.settings.patches_per_step,
            device=self.settings.device,
            cache=self.cache,
            reporter=self.reporter,
        )

    def rows(self, patches: LabelledPatches) -> NDArray[np.int64]:
        """Sorted rows of `patches` whose labels are used."""
        return label_subset(
            patches.labels,
            self.amount,
            patches.classes,
            seed=self.seed,
            balance=self.settings.balance,
            groups=patches.group_index if self.select == "spread" else None,
        )

    def fit(self, patches: LabelledPatches, features: Features | None) -> tuple[Fitted, LabelledPatches]:
        """Train on the labelled subset of `patches`; returns that subset too.

        With `features` (N, D) of `patches` only the head is trained. Warns where the split had to fall back.
        """
        rows = self.rows(patches)
        subset = patches.subset(rows)
        fitted = fit_classifier(
            subset,
            self.encoder(),
            self.settings,
            image_size=self.image_size,
            seed=self.seed,
            features=None if features is None else features[rows],
            reporter=self.reporter,
        )
        if fitted.split.warning:
            self.reporter.warn(fitted.split.warning)
        return fitted, subset


def cross_validate(task: ClassificationTask, folds: int, features: Features | None) -> list[Part]:
    """Out-of-fold predictions: every group is judged by a classifier that has not seen it.

    One `Part` a fold, in order, with logits of a classifier trained from a fresh encoder on nothing of that
    fold. `features` (N, D) are those of all training patches, None for fine-tuning.
    """
    patches = task.data.train
    fold_of = group_folds(patches.labels, patches.group_index, folds=folds, seed=task.seed)
    parts: list[Part] = []
    with task.reporter.task("folds", total=folds, unit="folds") as progress:
        for fold in range(folds):
            inside, outside = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            held_out = patches.subset(outside)
            # A fresh encoder each fold, from `encoder`: none inherits what another has learnt.
            fitted, _ = task.fit(patches.subset(inside), None if features is None else features[inside])
            if features is None:
                # Fine-tuned: each fold's encoder has features of its own.
                logits = predict_logits(
                    fitted.classifier,
                    held_out.collection,
                    batch_size=task.settings.patches_per_step,
                    device=task.settings.device,
                    reporter=task.reporter,
                )
            else:
                # (n, K) in the order of `outside`, which is that of `held_out`.
                logits = head_logits(fitted.classifier.head, features[outside])
            parts.append(
                Part(
                    name=f"fold {fold + 1}", patches=held_out, logits=logits, temperature=_temperature(fitted)
                )
            )
            progress.advance()
    return parts


def test_part(task: ClassificationTask, fitted: Fitted) -> list[Part]:
    """Predictions for the test patches; empty without any."""
    test = task.data.test
    if test is None:
        return []
    features = task.features(test)
    if features is None:
        logits = predict_logits(
            fitted.classifier,
            test.collection,
            batch_size=task.settings.patches_per_step,
            device=task.settings.device,
            reporter=task.reporter,
        )
    else:
        logits = head_logits(fitted.classifier.head, features)
    return [Part(name="test", patches=test, logits=logits, temperature=_temperature(fitted))]


def validation_part(fitted: Fitted, subset: LabelledPatches) -> list[Part]:
    """Predictions for the share held out inside the subset; empty where nothing was."""
    if fitted.validation_logits is None:
        return []
    held_out = subset.subset(fitted.split.held_out)
    logits = fitted.validation_logits
    return [Part(name="validation", patches=held_out, logits=logits, temperature=_temperature(fitted))]


def _temperature(fitted: Fitted) -> float:
    return fitted.classifier.card.temperature


def all_parts(parts: Sequence[Part]) -> LabelledPatches:
    """The patches of all folds in the order of their predictions (each fold is a part of one collection)."""
    # Every fold is a subset of one collection, so stores, classes and groups are those of any of them.
    first = parts[0].patches
    collection = first.collection
    everything = type(collection)(
        collection.stores,
        store_index=np.concatenate([part.patches.collection.store_index for part in parts]),
        row=np.concatenate([part.patches.collection.row for part in parts]),
        labels=np.concatenate([part.patches.collection.labels for part in parts]),
        classes=collection.classes,
    )
    # The fields that `replace` keeps (classes) are the same in all folds.
    return replace(
        first,
        collection=everything,
        labels=np.concatenate([part.patches.labels for part in parts]),
        groups=np.concatenate([part.patches.groups for part in parts]),
        images=np.concatenate([part.patches.images for part in parts]),
    )
