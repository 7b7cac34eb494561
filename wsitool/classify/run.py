"""`classify`: labelled stores in, a classifier and an honest account of it out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsitool import __version__
from wsitool.backbones.build import build_encoder
from wsitool.backbones.device import choose_device
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.features import encoder_digest
from wsitool.backbones.precision import slow_precision
from wsitool.backbones.sizes import check_size
from wsitool.base.files import check_writable
from wsitool.base.interrupt import deferred, progress_on_stop
from wsitool.base.lock import locked
from wsitool.base.machine import explain_memory
from wsitool.base.progress import SILENT, Reporter
from wsitool.classify.account import judged_on_of, metrics_of, parts_of, said_first
from wsitool.classify.checks import (
    check_amounts,
    check_choices,
    check_leaks,
    chosen_image_size,
    near_duplicates_in_test,
)
from wsitool.classify.color_baseline import baselines
from wsitool.classify.cross_validation import (
    ClassificationTask,
    all_parts,
    cross_validate,
    test_part,
    validation_part,
)
from wsitool.classify.data import Paths, TrainTest, open_train_test
from wsitool.classify.encoder_reference import EncoderReference
from wsitool.classify.feature_files import FeatureFiles
from wsitool.classify.finished import finished_files, with_intervals
from wsitool.classify.fit import Fitted
from wsitool.classify.logged import classify_loggers, epoch_logger, log_result
from wsitool.classify.outputs import Part, describe_patches, patches_hash, write_run
from wsitool.classify.result import ClassifyResult
from wsitool.classify.settings import VALIDATION, ClassifyOptions, Settings
from wsitool.classify.trial import memory_advice, with_batch
from wsitool.errors import UsageError
from wsitool.evaluation.amounts import asks
from wsitool.evaluation.labels import LabelledPatches
from wsitool.loading.device_decode import effective_decode, say_decoding
from wsitool.stain.slides import with_stain
from wsitool.stain.target import choose_norm
from wsitool.store.collection import Collection
from wsitool.store.stain_table import StainNorm
from wsitool.tracking.loggers import Loggers
from wsitool.training.hardware import training_device
from wsitool.training.launch import find_member, is_first_process
from wsitool.training.ranks import joined

__all__ = ["classify"]


def classify(
    train: Paths | Collection,
    *,
    out: str | Path,
    settings: Settings | None = None,
    judge: Collection | None = None,
    reporter: Reporter = SILENT,
    **options: Any,
) -> ClassifyResult:
    """Train a classifier on a share of the labels and evaluate it.

    `options` are the fields of `ClassifyOptions`, `settings` how a classifier is trained. It is evaluated on
    `test` (or `judge`, a part of its stores), or by `folds`-fold cross-validation over groups, or, with
    neither, on its own validation share (optimistic, and said so). `image_size` None takes the encoder's,
    else the patches'. Writes into `out`; a finished run there stays unless `overwrite` says so, and is
    refused if it differs. UsageError for choices that cannot work together or leak, LabelError, EncoderError.
    """
    began, out = time.monotonic(), Path(out)
    asked = ClassifyOptions.from_dict(options, what="classify")
    settings = _checked(settings or Settings(), asked)
    reporter = reporter if _writes(settings) else SILENT
    test = (asked.test or None) if judge is None else judge
    data = open_train_test(train, test, labels=asked.labels, split=settings.split, reporter=reporter)
    check_amounts(data.train, asked, settings)
    files = None if asked.features is None else FeatureFiles.at(asked.features)
    first = files.stand_in(data.train.collection) if files else _built(asked, reporter)
    data, norm = _normalized(data, first, asked, reporter)
    _say_how(data, settings, reporter)
    seen = check_leaks(data, first, asked, reporter)
    task = ClassificationTask(
        data=data,
        settings=settings,
        amount=asked.amount,
        select=asked.select,
        seed=asked.seed,
        image_size=chosen_image_size(asked.image_size, first, data.train.collection.patch_size),
        encoder=lambda: first if files else _under(norm, _built(asked)),
        cache=None if asked.cache is None else Path(asked.cache),
        reference=_reference(first, asked, settings, out),
        reporter=reporter,
    )
    if files is None:
        check_size(first, task.image_size, reporter)
    record = _run_record(task, first, asked)
    if not asked.overwrite and (kept := _kept(out, record, reporter)) is not None:
        return kept
    alike = near_duplicates_in_test(data, reporter)
    for folder in (out, *([] if task.cache is None else [task.cache])):
        check_writable(folder)
    with (
        # The processes of one run share their first one's lock.
        locked(out / "run.json", what=f"'{out}'") if _writes(settings) else nullcontext(),
        progress_on_stop(lambda: f"nothing was written to '{out}'; run again to start anew"),
        explain_memory(lambda: memory_advice(task)),
    ):
        found = {"near_duplicates_in_test": alike, "transductive_groups": seen}
        return _logged(with_batch(task), out, asked, found, record, began)


def _checked(settings: Settings, asked: ClassifyOptions) -> Settings:
    """The settings with nothing left to choose; UsageError where they do not fit what is asked."""
    if not asked.test and asked.folds is None and settings.validation is None:
        # Nothing else to judge by, also where the head needs none to choose by.
        settings = replace(settings, validation=VALIDATION)
    check_choices(asked, settings)
    decode = effective_decode(settings.decode, choose_device(settings.first_device))
    return replace(settings, decode=decode)


def _writes(settings: Settings) -> bool:
    """Whether this process is the one that writes and speaks, of those that fine-tune together."""
    return settings.devices == 1 or is_first_process()


@contextmanager
def _together(settings: Settings, reporter: Reporter) -> Iterator[Settings]:
    """Within the block this process is one of `settings.devices` that fine-tune together, on its own."""
    if settings.devices == 1:
        yield settings
        return
    member = find_member(settings.device, 1)
    device = training_device(settings.device, local_rank=member.local_rank)
    with joined(member, device, reporter.warn, agrees=False):
        yield replace(settings, device=str(device))


def _logged(
    task: ClassificationTask,
    out: Path,
    asked: ClassifyOptions,
    data_figures: dict[str, Any],
    record: dict[str, Any],
    began: float,
) -> ClassifyResult:
    """Carry it out, with the loggers told of all of it."""
    writes = _writes(task.settings)
    with classify_loggers(asked, task.settings, out, writes=writes, reporter=task.reporter) as loggers:
        result = _carry_out(task, out, asked, data_figures, record, began, loggers)
        log_result(loggers, result)
    return result


def _carry_out(
    task: ClassificationTask,
    out: Path,
    asked: ClassifyOptions,
    data_figures: dict[str, Any],
    record: dict[str, Any],
    began: float,
    loggers: Loggers,
) -> ClassifyResult:
    """Train, evaluate and write; `data_figures` go into metrics.json, `record` into run.json."""
    train, folds = task.data.train, asked.folds
    # All at once where they serve several fits, another run, or the questions which patches to label.
    at_once = folds or task.cache is not None or asks(task.select)
    with _together(task.settings, task.reporter) as settings:
        own = replace(task, settings=settings)
        features = own.start_features if at_once and settings.frozen else None
        parts = cross_validate(own, folds, features) if folds else []
        fitted, subset = own.fit(np.arange(len(train)), features, epoch_logger(loggers))
        parts += test_part(own, fitted) + validation_part(fitted, subset)
    result = ClassifyResult(
        out=out,
        classes=train.classes,
        judged_on="folds" if folds else parts[0].name,
        metrics={},
        trained_on=len(fitted.split.train),
        validated_on=len(fitted.split.held_out),
    )
    if not _writes(task.settings):
        return result
    judged_on = judged_on_of(parts, folds, task.reporter)
    steps = _optimizer_steps(fitted, task.settings)
    metrics = {**_account(task, subset, fitted, parts, judged_on, steps), **data_figures}
    seconds = round(time.monotonic() - began, 2)
    with progress_on_stop(lambda: f"all is done and written to '{out}'"), deferred():
        write_run(
            out,
            fitted,
            parts=parts,
            metrics=metrics,
            judged=judged_on,
            manifest=_manifest(task.data, subset, fitted, asked),
            run={
                **record,
                "batch_size": task.settings.batch_size,
                "judged_on": judged_on,
                "said_first": metrics["said_first"],
                "better_than_guessing": metrics[judged_on]["guessing"]["better"],
                "optimizer_steps": steps,
                "c": fitted.c,
                "c_search": fitted.search.to_dict() if fitted.search is not None else None,
                "seconds": seconds,
            },
            reference=task.reference,
        )
    return replace(result, metrics=metrics)


def _account(
    task: ClassificationTask,
    subset: LabelledPatches,
    fitted: Fitted,
    parts: list[Part[LabelledPatches]],
    judged_on: str,
    steps: int | None,
) -> dict[str, Any]:
    """The figures of `parts` beside those of the baselines, and first what must be known before them."""
    folds = parts_of(parts, "folds")
    metrics = metrics_of(
        parts,
        fitted.classifier.card.classes,
        fitted.split,
        judged_on,
        everyone=all_parts(folds) if folds else None,
        seed=task.seed,
    )
    judged = parts_of(parts, judged_on)
    beside = baselines(task, subset, fitted.split.train, judged)
    said = said_first(metrics[judged_on], task.data.train.classes, steps)
    # Of a classifier that guesses enough has been said.
    learned_color = metrics[judged_on]["guessing"]["better"] and not beside["color"]["beaten"]
    said += [beside["sentence"]] if learned_color else []
    return {"said_first": said, **metrics, "baselines": beside}


def _optimizer_steps(fitted: Fitted, settings: Settings) -> int | None:
    """Steps of fine-tuning; None for heads on frozen features."""
    batches = -(-len(fitted.split.train) // settings.patches_per_step)
    return len(fitted.history) * batches if fitted.history else None


def _built(asked: ClassifyOptions, reporter: Reporter = SILENT) -> Encoder:
    return build_encoder(asked, asked.encoder, asked.seed, reporter)


def _reference(
    encoder: Encoder, asked: ClassifyOptions, settings: Settings, out: Path
) -> EncoderReference | None:
    if asked.copy_encoder:
        return None
    if not settings.frozen:
        raise UsageError(
            "--no-copy-encoder is for heads on a frozen encoder (--head linear, knn): fine-tuning changes "
            "its weights, and the classifier holds them."
        )
    return EncoderReference.of(None if asked.features else encoder, asked.features or asked.encoder, out)


def _under(norm: StainNorm | None, encoder: Encoder) -> Encoder:
    encoder.card = replace(encoder.card, stain=norm)
    return encoder


def _normalized(
    data: TrainTest, encoder: Encoder, asked: ClassifyOptions, reporter: Reporter
) -> tuple[TrainTest, StainNorm | None]:
    """The patches under the run's stain norm, which the encoder's card states from here on."""
    norm = choose_norm(asked.stain_norm, asked.stain_target, encoder.card.stain)
    _under(norm, encoder)
    train = replace(data.train, collection=with_stain(data.train.collection, norm, reporter))
    if data.test is None:
        return replace(data, train=train), norm
    test = replace(data.test, collection=with_stain(data.test.collection, norm, reporter))
    return replace(data, train=train, test=test), norm


def _say_how(data: TrainTest, settings: Settings, reporter: Reporter) -> None:
    if slow := slow_precision(settings.precision, choose_device(settings.first_device).type):
        reporter.warn(slow)
    for patches in (data.train, data.test):
        if patches is not None:
            say_decoding(settings.decode, patches.collection, reporter)


def _kept(out: Path, record: dict[str, Any], reporter: Reporter) -> ClassifyResult | None:
    """What a run of the same `record` that is finished in `out` came to; None if there is none."""
    files = finished_files(out, record)
    if files is None:
        return None
    before, manifest = files
    reporter.say(f"The run in '{out}' is finished, and is left as it is.")
    metrics = with_intervals(out, before, reporter)
    return ClassifyResult(
        out=out,
        classes=tuple(metrics["classes"]),
        judged_on=metrics["judged_on"],
        metrics=metrics,
        trained_on=manifest["train"]["patches"],
        validated_on=manifest["validation"]["patches"],
    )


def _run_record(task: ClassificationTask, encoder: Encoder, asked: ClassifyOptions) -> dict[str, Any]:
    """run.json: everything needed to repeat the run."""
    return {
        "command": "classify",
        "wsitool_version": __version__,
        "encoder": {
            "init": asked.features or asked.encoder,
            "digest": encoder_digest(encoder),
            **encoder.card.to_dict(),
        },
        "data": [None if side is None else patches_hash(side) for side in (task.data.train, task.data.test)],
        "settings": asdict(task.settings),
        "fraction": asked.fraction,
        "labels_per_class": asked.labels_per_class,
        "select": asked.select,
        "folds": asked.folds,
        "seed": task.seed,
        "image_size": task.image_size,
        "classes": list(task.data.train.classes),
        "copy_encoder": asked.copy_encoder,
    }


def _manifest(
    data: TrainTest, subset: LabelledPatches, fitted: Fitted, asked: ClassifyOptions
) -> dict[str, Any]:
    return {
        "fraction": asked.fraction,
        "labels_per_class": asked.labels_per_class,
        "seed": asked.seed,
        "classes": list(subset.classes),
        "labelled_patches": len(data.train),
        "subset": describe_patches(subset),
        "train": describe_patches(subset.subset(fitted.split.train)),
        "validation": describe_patches(subset.subset(fitted.split.held_out)),
        "test": None if data.test is None else describe_patches(data.test),
    }
