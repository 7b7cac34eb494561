"""`classify --level slide`: labelled bags in, a classifier of slides and an honest account of it out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsitool import __version__
from wsitool.base.files import check_writable
from wsitool.base.interrupt import deferred, progress_on_stop
from wsitool.base.lock import locked
from wsitool.base.progress import SILENT, Reporter
from wsitool.classify.account import judged_on_of, metrics_of, parts_of, said_first
from wsitool.classify.data import Paths
from wsitool.classify.encoder_reference import EncoderReference
from wsitool.classify.finetune import Epoch
from wsitool.classify.finished import finished_files, with_intervals
from wsitool.classify.logged import classify_loggers, log_epochs, log_result
from wsitool.classify.outputs import Part, account_files
from wsitool.classify.result import ClassifyResult
from wsitool.classify.settings import VALIDATION, ClassifyOptions
from wsitool.errors import UsageError
from wsitool.evaluation.amounts import asks
from wsitool.evaluation.subsets import class_counts
from wsitool.mil.bags import BagReader, LabelledBags
from wsitool.mil.baselines import baselines_of_bags
from wsitool.mil.data import LabelledSides, open_labelled
from wsitool.mil.features import FeatureSource, features_for
from wsitool.mil.fitting import FittedBags, SlideTask, cross_validate, joined, logits_of
from wsitool.mil.model import SLIDE_CLASSIFIER_FILE, SlideCard, SlideClassifier, save_slide_classifier
from wsitool.mil.options import SlideSettings
from wsitool.mil.outputs import bags_hash, describe_bags, write_bag_predictions
from wsitool.slides.spec import CandidateRule
from wsitool.store.collection import Collection
from wsitool.store.splits import group_folds

__all__ = ["classify_slides"]


def classify_slides(
    train: Paths | Collection,
    *,
    out: str | Path,
    settings: SlideSettings,
    judge: Collection | None = None,
    reporter: Reporter = SILENT,
    **options: Any,
) -> ClassifyResult:
    """Train a head on labelled slides or patients and evaluate it, as `classify` does for patches.

    `train` and `test` are stores, whose features are made by `encoder` and kept in `cache` or
    `out`/features, or files of features. Raises what `classify` raises.
    """
    began, out = time.monotonic(), Path(out)
    asked = ClassifyOptions.from_dict(options, what="classify")
    if not asked.test and judge is None and asked.folds is None and settings.validation is None:
        settings = replace(settings, validation=VALIDATION)
    _check(asked, settings, judge)
    test = (asked.test or None) if judge is None else judge
    data = open_labelled(train, test, level=settings.level, labels=asked.labels, reporter=reporter)
    _check_amounts(data.train, asked, settings)
    source = features_for(data, asked, settings, out, reporter)
    reference = None
    if not asked.copy_encoder:
        reference = EncoderReference.of(source.encoder, asked.encoder, out)
    record = _record(data, source, asked, settings)
    if not asked.overwrite and (kept := _kept(out, record, settings, reporter)) is not None:
        return kept
    for folder in (out, *source.folders):
        check_writable(folder)
    with (
        locked(out / "run.json", what=f"'{out}'"),
        progress_on_stop(lambda: f"no run was written to '{out}'; run again to start anew"),
    ):
        made = [source.made(bags, side) for bags, side in zip(data.counts, data.sides, strict=True)]
        task = SlideTask(
            train=made[0],
            test=made[1] if len(made) > 1 else None,
            settings=settings,
            amount=asked.amount,
            select=asked.select,
            seed=asked.seed,
            feature_dim=source.width,
            reader=BagReader(),
            reporter=reporter,
        )
        with classify_loggers(asked, settings, out, writes=True, reporter=reporter) as loggers:
            result, history = _carry_out(task, data, source, out, asked, record, began, reference)
            log_epochs(loggers, history)
            log_result(loggers, result)
        return result


def _check(asked: ClassifyOptions, settings: SlideSettings, judge: Collection | None) -> None:
    if asked.features is not None:
        raise UsageError(
            f"With --level {settings.level} features take the place of stores: pass "
            f"'{asked.features}' itself instead of --features."
        )
    if asks(asked.select):
        raise UsageError(
            f"--select {asked.select} asks for patches: with --level {settings.level} use spread or random."
        )
    if settings.validation == 0 and not asked.test and judge is None and asked.folds is None:
        raise UsageError("--validation 0 leaves nothing to evaluate on: give --test or --folds.")


def _check_amounts(train: LabelledBags, asked: ClassifyOptions, settings: SlideSettings) -> None:
    """What would fail later, before any feature is made."""
    class_counts(train.labels, asked.amount, train.classes, balance=settings.balance, what=settings.counted)
    if asked.folds is not None:
        group_folds(train.labels, train.group_index, folds=asked.folds, seed=asked.seed)


def _carry_out(
    task: SlideTask,
    data: LabelledSides,
    source: FeatureSource,
    out: Path,
    asked: ClassifyOptions,
    record: dict[str, Any],
    began: float,
    reference: EncoderReference | None,
) -> tuple[ClassifyResult, Sequence[Epoch]]:
    settings, counted = task.settings, task.settings.counted
    parts = cross_validate(task, asked.folds) if asked.folds else []
    fit = task.fit(np.arange(len(task.train)))
    parts += _outside(task, fit)
    judged_on = judged_on_of(parts, asked.folds, task.reporter, counted=counted)
    metrics = _account(task, data, fit, parts, judged_on)
    metrics["transductive_groups"] = source.seen
    manifest = {
        "fraction": asked.fraction,
        "labels_per_class": asked.labels_per_class,
        "seed": asked.seed,
        "classes": list(task.train.classes),
        f"labelled_{counted}": len(task.train),
        "train": describe_bags(fit.subset.subset(fit.split.train), counted),
        "validation": describe_bags(fit.subset.subset(fit.split.held_out), counted),
        "test": None if task.test is None else describe_bags(task.test, counted),
    }
    run = {
        **record,
        "judged_on": judged_on,
        "said_first": metrics["said_first"],
        "better_than_guessing": metrics[judged_on]["guessing"]["better"],
        "choices": dict(fit.fitted.choices),
        "seconds": round(time.monotonic() - began, 2),
    }
    files = account_files(
        out,
        metrics=metrics,
        judged=judged_on,
        manifest=manifest,
        run=run,
        history=fit.fitted.history,
        counted=counted,
    )
    with progress_on_stop(lambda: f"all is done and written to '{out}'"), deferred(), files:
        classifier = SlideClassifier(source.encoder, fit.fitted.head, _card(task, data, source, fit))
        save_slide_classifier(classifier, out / SLIDE_CLASSIFIER_FILE, reference=reference)
        write_bag_predictions(out / "predictions.csv", parts)
    return _result(out, metrics, manifest, settings), fit.fitted.history


def _outside(task: SlideTask, fit: FittedBags) -> list[Part[LabelledBags]]:
    """What the classifier that is kept says of test and validation bags."""
    parts = []
    if task.test is not None:
        logits = logits_of(fit.fitted.head, task.test, task)
        parts.append(Part(name="test", patches=task.test, logits=logits, temperature=fit.temperature))
    if fit.validation_logits is not None:
        held_out = fit.subset.subset(fit.split.held_out)
        logits = fit.validation_logits
        parts.append(Part(name="validation", patches=held_out, logits=logits, temperature=fit.temperature))
    return parts


def _account(
    task: SlideTask,
    data: LabelledSides,
    fit: FittedBags,
    parts: Sequence[Part[LabelledBags]],
    judged_on: str,
) -> dict[str, Any]:
    counted, folds = task.settings.counted, parts_of(parts, "folds")
    metrics = metrics_of(
        parts,
        task.train.classes,
        fit.split,
        judged_on,
        everyone=joined(folds) if folds else None,
        seed=task.seed,
        counted=counted,
    )
    beside = baselines_of_bags(task, data, fit, parts_of(parts, judged_on))
    said = said_first(metrics[judged_on], task.train.classes, None, one=task.settings.level)
    learned_color = metrics[judged_on]["guessing"]["better"] and not beside.get("color", {}).get(
        "beaten", True
    )
    said += [beside["sentence"]] if learned_color else []
    return {"level": task.settings.level, "said_first": said, **metrics, "baselines": beside}


def _card(task: SlideTask, data: LabelledSides, source: FeatureSource, fit: FittedBags) -> SlideCard:
    collection = next(iter(data.collections), None)
    return SlideCard(
        classes=task.train.classes,
        head=task.settings.head,
        level=task.settings.level,
        temperature=fit.temperature,
        groups=tuple(sorted(set(fit.subset.groups.tolist()))),
        encoder=source.card,
        image_size=source.image_size,
        patch_size=None if collection is None else collection.patch_size,
        mpp=None if collection is None else collection.mpp,
        candidates=None
        if collection is None
        else CandidateRule.common(store.meta.params for store in collection.stores),
        sizes=dict(fit.fitted.sizes),
        features_digest=data.sides[0].digest,
    )


def _record(
    data: LabelledSides, source: FeatureSource, asked: ClassifyOptions, settings: SlideSettings
) -> dict[str, Any]:
    """run.json: everything needed to repeat the run."""
    return {
        "command": "classify",
        "wsitool_version": __version__,
        "level": settings.level,
        "encoder": {"init": asked.encoder, "digest": source.digest, **source.card.to_dict()},
        "data": [bags_hash(bags) for bags in data.counts],
        "settings": asdict(settings),
        "fraction": asked.fraction,
        "labels_per_class": asked.labels_per_class,
        "select": asked.select,
        "folds": asked.folds,
        "seed": asked.seed,
        "image_size": source.image_size,
        "classes": list(data.train.classes),
        "copy_encoder": asked.copy_encoder,
    }


def _kept(
    out: Path, record: dict[str, Any], settings: SlideSettings, reporter: Reporter
) -> ClassifyResult | None:
    files = finished_files(out, record)
    if files is None:
        return None
    reporter.say(f"The run in '{out}' is finished, and is left as it is.")
    return _result(out, with_intervals(out, files[0], reporter), files[1], settings)


def _result(
    out: Path, metrics: dict[str, Any], manifest: dict[str, Any], settings: SlideSettings
) -> ClassifyResult:
    return ClassifyResult(
        out=out,
        classes=tuple(metrics["classes"]),
        judged_on=metrics["judged_on"],
        metrics=metrics,
        trained_on=manifest["train"][settings.counted],
        validated_on=manifest["validation"][settings.counted],
        counted=settings.counted,
    )
