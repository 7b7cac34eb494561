"""The steps of one classification run: train on a subset of the labels, predict what was held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.backbones.encoder import Encoder
from wsitool.base.progress import Reporter
from wsitool.classify.data import TrainTest
from wsitool.classify.encoder_reference import EncoderReference
from wsitool.classify.feature_files import features_of
from wsitool.classify.finetune import Epoch
from wsitool.classify.fit import Features, Fitted, fit_classifier
from wsitool.classify.heads import head_logits
from wsitool.classify.logits import predict_logits
from wsitool.classify.outputs import Part
from wsitool.classify.selection import labelled_rows
from wsitool.classify.settings import Settings
from wsitool.evaluation.amounts import Amount, Select
from wsitool.evaluation.labels import LabelledPatches
from wsitool.store.splits import group_folds

__all__ = ["ClassificationTask", "all_parts", "cross_validate", "test_part", "validation_part"]


@dataclass(frozen=True, kw_only=True)
class ClassificationTask:
    """What every step of one run needs; `encoder` builds a fresh one each time.

    With a `reference` the classifier that is written refers to the encoder's file.
    """

    data: TrainTest
    settings: Settings
    amount: Amount
    select: Select
    seed: int
    image_size: int
    encoder: Callable[[], Encoder]
    cache: Path | None
    reporter: Reporter
    reference: EncoderReference | None = None

    def features(self, patches: LabelledPatches) -> Features | None:
        """Features of frozen encoders; None where the encoder is going to change.

        (N, D) float32 of all `patches`, row for row; with a `cache` they are computed once for many runs.
        """
        if not self.settings.frozen:
            return None
        return self._encoded(patches)

    def _encoded(self, patches: LabelledPatches) -> Features:
        return features_of(
            self.encoder(),
            patches.collection,
            image_size=self.image_size,
            batch_size=self.settings.patches_per_step,
            device=self.settings.device,
            decode=self.settings.decode,
            cache=self.cache,
            reporter=self.reporter,
        )

    @cached_property
    def start_features(self) -> Features:
        """(N, D) float32 of all training patches by the encoder that training starts from, tuned or not."""
        features = self.features(self.data.train)
        return self._encoded(self.data.train) if features is None else features

    def rows(self, inside: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the rows `inside` of the training patches whose labels are used."""
        picked: NDArray[np.int64] = inside[
            labelled_rows(
                self.data.train.subset(inside),
                self.amount,
                select=self.select,
                balance=self.settings.balance,
                seed=self.seed,
                features=lambda: self.start_features[inside],
            )
        ]
        return picked

    def fit(
        self,
        inside: NDArray[np.int64],
        features: Features | None,
        each_epoch: Callable[[Epoch], None] = lambda epoch: None,
    ) -> tuple[Fitted, LabelledPatches]:
        """Train on the labelled ones of the rows `inside` of the training patches; returns these too.

        With `features` (N, D) of all training patches only the head is trained. Warns where the split had to
        fall back.
        """
        rows = self.rows(inside)
        subset = self.data.train.subset(rows)
        fitted = fit_classifier(
            subset,
            self.encoder(),
            self.settings,
            image_size=self.image_size,
            seed=self.seed,
            features=None if features is None else features[rows],
            reporter=self.reporter,
            each_epoch=each_epoch,
        )
        if fitted.split.warning:
            self.reporter.warn(fitted.split.warning)
        return fitted, subset


def cross_validate(
    task: ClassificationTask, folds: int, features: Features | None
) -> list[Part[LabelledPatches]]:
    """Out-of-fold predictions: every group is judged by a classifier that has not seen it.

    One `Part` a fold, in order, with logits of a classifier trained from a fresh encoder on nothing of that
    fold. `features` (N, D) are those of all training patches, None for fine-tuning.
    """
    patches = task.data.train
    fold_of = group_folds(patches.labels, patches.group_index, folds=folds, seed=task.seed)
    parts: list[Part[LabelledPatches]] = []
    with task.reporter.task("folds", total=folds, unit="folds") as progress:
        for fold in range(folds):
            inside, outside = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            held_out = patches.subset(outside)
            # A fresh encoder each fold, from `encoder`: none inherits what another has learnt.
            fitted, _ = task.fit(inside, features)
            if features is None:
                # Fine-tuned: each fold's encoder has features of its own.
                logits = predict_logits(
                    fitted.classifier,
                    held_out.collection,
                    batch_size=task.settings.patches_per_step,
                    device=task.settings.device,
                    decode=task.settings.decode,
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


def test_part(task: ClassificationTask, fitted: Fitted) -> list[Part[LabelledPatches]]:
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
            decode=task.settings.decode,
            reporter=task.reporter,
        )
    else:
        logits = head_logits(fitted.classifier.head, features)
    return [Part(name="test", patches=test, logits=logits, temperature=_temperature(fitted))]


def validation_part(fitted: Fitted, subset: LabelledPatches) -> list[Part[LabelledPatches]]:
    """Predictions for the share held out inside the subset; empty where nothing was."""
    if fitted.validation_logits is None:
        return []
    held_out = subset.subset(fitted.split.held_out)
    logits = fitted.validation_logits
    return [Part(name="validation", patches=held_out, logits=logits, temperature=_temperature(fitted))]


def _temperature(fitted: Fitted) -> float:
    return fitted.classifier.card.temperature


def all_parts(parts: Sequence[Part[LabelledPatches]]) -> LabelledPatches:
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
