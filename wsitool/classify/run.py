"""`classify`: labelled stores in, a classifier and an honest account of it out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsitool import __version__
from wsitool.backbones.build import build_backbone
from wsitool.backbones.encoder import Encoder
from wsitool.base.files import check_writable
from wsitool.base.interrupt import deferred, progress_on_stop
from wsitool.base.machine import explain_memory
from wsitool.base.progress import SILENT, Reporter
from wsitool.classify.cross_validation import Work, cross_validate, joined, test_part, validation_part
from wsitool.classify.data import Paths, TrainTest, open_train_test
from wsitool.classify.fit import Fitted
from wsitool.classify.outputs import Part, describe_patches, write_run
from wsitool.classify.settings import FEW_STEPS, Settings
from wsitool.errors import UsageError
from wsitool.evaluation.duplicates import near_duplicates
from wsitool.evaluation.labels import LabelledPatches
from wsitool.evaluation.leakage import check_pretraining
from wsitool.evaluation.splits import group_folds
from wsitool.evaluation.subsets import per_class_count
from wsitool.evaluation.summary import judge

__all__ = ["ClassifyResult", "classify"]

MPP_TOLERANCE = 0.1
_LEAST_IMAGE_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class ClassifyResult:
    """What a run came to; `judged_on` is "test", "folds" or, with neither, "validation"."""

    out: Path
    classes: tuple[str, ...]
    judged_on: str
    metrics: dict[str, Any]
    trained_on: int
    validated_on: int

    @property
    def scores(self) -> dict[str, Any]:
        """The figures of the part it was judged on."""
        found: dict[str, Any] = self.metrics[self.judged_on]
        return found

    @property
    def said_first(self) -> list[str]:
        """What must be known before any figure is read: guessing, hardly trained, a class never judged."""
        return list(self.metrics["said_first"])


def classify(
    train: Paths,
    *,
    out: str | Path,
    encoder: str | Path = "imagenet",
    backbone: str | None = None,
    labels: str | Path | None = None,
    fraction: float = 1.0,
    test: Paths | None = None,
    folds: int | None = None,
    settings: Settings | None = None,
    image_size: int | None = None,
    seed: int = 0,
    allow_transductive: bool = False,
    cache: str | Path | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> ClassifyResult:
    """Train a classifier on a class-balanced share of the labels and judge it.

    It is judged on `test`, or by `folds`-fold cross-validation over groups, or, with neither, on its own
    validation share (optimistic, and said so). `encoder` is "imagenet", "random", a pretraining run or a
    weights file. `image_size` None takes the encoder's, else the patches'. With a folder `cache` the features
    of frozen encoders are kept for the next run. Writes into `out` the files of DESIGN.md section 3.

    Raises UsageError for choices that cannot work together or leak, LabelError, EncoderError, StoreError.
    """
    began, out, settings = time.monotonic(), Path(out), settings or Settings()
    _check_choices(out, test, folds, settings, overwrite)
    data = open_train_test(train, test, labels=labels, split=settings.split, reporter=reporter)
    # these fail before anything costs time
    per_class_count(data.train.labels, fraction, data.train.classes)
    if folds is not None:
        group_folds(data.train.labels, data.train.group_index, folds=folds, seed=seed)
    first = build_backbone(backbone, init=encoder, seed=seed)
    facts = {
        "near_duplicates_in_test": _near_duplicates(data, reporter),
        "transductive_groups": _check_leaks(
            data, first, folds, allowed=allow_transductive, reporter=reporter
        ),
    }
    work = Work(
        data=data,
        settings=settings,
        fraction=fraction,
        seed=seed,
        image_size=_image_size(image_size, first, data.train.collection.patch_size),
        encoder=lambda: build_backbone(backbone, init=encoder, seed=seed),
        cache=None if cache is None else Path(cache),
        reporter=reporter,
    )
    record = _run_record(work, first, encoder_given=str(encoder), folds=folds)
    for folder in (out, *([] if work.cache is None else [work.cache])):
        check_writable(folder)
    with (
        progress_on_stop(lambda: f"nothing was written to '{out}'; run again to start anew"),
        explain_memory(f"lower --batch-size ({settings.batch_size}) or --image-size ({work.image_size})"),
    ):
        return _carry_out(work, out, folds, facts, record, began)


def _carry_out(
    work: Work, out: Path, folds: int | None, facts: dict[str, Any], record: dict[str, Any], began: float
) -> ClassifyResult:
    """Train, judge and write; `facts` go into metrics.json, `record` into run.json."""
    train = work.data.train
    features = work.features(train) if folds or work.cache is not None else None
    parts = cross_validate(work, folds, features) if folds else []
    fitted, subset = work.fit(train, features)
    parts += test_part(work, fitted) + validation_part(fitted, subset)
    judged_on = _judged_on(parts, folds, work.reporter)
    metrics = _metrics(parts, fitted, judged_on, work.seed)
    steps = _optimizer_steps(fitted, work.settings)
    metrics = {"said_first": _said_first(metrics[judged_on], train.classes, steps), **metrics, **facts}
    seconds = round(time.monotonic() - began, 2)
    result = ClassifyResult(
        out=out,
        classes=train.classes,
        judged_on=judged_on,
        metrics=metrics,
        trained_on=len(fitted.split.train),
        validated_on=len(fitted.split.held_out),
    )
    with progress_on_stop(lambda: f"all is done and written to '{out}'"), deferred():
        write_run(
            out,
            fitted,
            parts=parts,
            metrics=metrics,
            judged=judged_on,
            manifest=_manifest(work.data, subset, fitted, work.fraction, work.seed),
            run={
                **record,
                "judged_on": judged_on,
                "said_first": metrics["said_first"],
                "better_than_guessing": metrics[judged_on]["guessing"]["better"],
                "optimizer_steps": steps,
                "c": fitted.c,
                "c_search": fitted.search.to_dict() if fitted.search is not None else None,
                "seconds": seconds,
            },
        )
    return result


def _optimizer_steps(fitted: Fitted, settings: Settings) -> int | None:
    """Steps of fine-tuning; None for heads on frozen features."""
    batches = -(-len(fitted.split.train) // settings.batch_size)
    return len(fitted.history) * batches if fitted.history else None


def _said_first(scores: dict[str, Any], classes: Sequence[str], steps: int | None) -> list[str]:
    lines = [scores["guessing"]["sentence"]] if scores["guessing"]["sentence"] else []
    if not scores["guessing"]["better"]:
        lines.append("No conclusion can be drawn from the figures.")
    if steps is not None and steps < FEW_STEPS:
        lines.append(
            f"Fine-tuning took {steps} optimizer step{'' if steps == 1 else 's'}, fewer than {FEW_STEPS}: "
            "the network is hardly trained; give more --epochs, more labels or a smaller --batch-size."
        )
    absent = [name for name, row in zip(classes, scores["confusion"], strict=True) if not sum(row)]
    if absent:
        lines.append(
            f"No judged patch is {' or '.join(absent)}: how well that is recognised is not known, and means "
            "over classes leave it out."
        )
    return lines


def _check_choices(
    out: Path, test: Paths | None, folds: int | None, settings: Settings, overwrite: bool
) -> None:
    if (out / "run.json").exists() and not overwrite:
        raise UsageError(f"{out} holds a finished run: choose another --out, or give --overwrite.")
    if test is not None and folds is not None:
        raise UsageError("Give either --test or --folds: both say what the classifier is judged on.")
    if settings.validation == 0 and test is None and folds is None:
        raise UsageError("--validation 0 leaves nothing to judge by: give --test or --folds.")


def _check_leaks(
    data: TrainTest, encoder: Encoder, folds: int | None, *, allowed: bool, reporter: Reporter
) -> list[str]:
    """The groups that pretraining has seen and the figures rest on, if that is allowed; also mpp warnings."""
    judged = data.test if data.test is not None else data.train if folds else None
    seen: list[str] = []
    if judged is not None:
        seen = check_pretraining(encoder.card.groups, judged.groups.tolist(), allowed=allowed)
    _warn(data, encoder, seen, reporter)
    return seen


def _near_duplicates(data: TrainTest, reporter: Reporter) -> int:
    """How many test patches look like training patches; a warning if any does."""
    if data.test is None:
        return 0
    found = near_duplicates(data.train.collection, data.test.collection)
    if found.pairs:
        reporter.warn(found.sentence())
    return found.count


def _judged_on(parts: list[Part], folds: int | None, reporter: Reporter) -> str:
    judged_on = "folds" if folds else parts[0].name
    if judged_on == "validation":
        reporter.warn(
            "No --test and no --folds: the figures are those of the validation patches, by which the "
            "classifier was chosen, so they are optimistic."
        )
    return judged_on


def _run_record(work: Work, encoder: Encoder, *, encoder_given: str, folds: int | None) -> dict[str, Any]:
    """run.json: everything needed to repeat the run."""
    return {
        "command": "classify",
        "wsitool_version": __version__,
        "encoder": {"init": encoder_given, **asdict(encoder.card)},
        "settings": asdict(work.settings),
        "fraction": work.fraction,
        "folds": folds,
        "seed": work.seed,
        "image_size": work.image_size,
        "classes": list(work.data.train.classes),
    }


def _image_size(asked: int | None, encoder: Encoder, patch_size: int) -> int:
    size = asked or encoder.card.image_size or patch_size
    if size < _LEAST_IMAGE_SIZE:
        raise UsageError(f"--image-size must be at least {_LEAST_IMAGE_SIZE} px, got {size}.")
    return size


def _warn(data: TrainTest, encoder: Encoder, seen: list[str], reporter: Reporter) -> None:
    if seen:
        reporter.warn(
            f"Transductive: the encoder was pretrained, without labels, on {len(seen)} of the groups it is "
            "judged on."
        )
    sides = [data.train.collection.mpp, *([data.test.collection.mpp] if data.test else [])]
    for mpp in {*sides} - {None}:
        wanted = encoder.card.mpp
        if wanted is not None and mpp is not None and abs(mpp / wanted - 1) > MPP_TOLERANCE:
            reporter.warn(
                f"The encoder was pretrained at {wanted:g} um/px and the patches are {mpp:g} um/px."
            )


def _metrics(parts: list[Part], fitted: Fitted, judged_on: str, seed: int) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "classes": list(fitted.classifier.card.classes),
        "judged_on": judged_on,
        "split_by": fitted.split.by,
        "split_warning": fitted.split.warning,
    }
    for part in parts:
        if part.name in ("test", "validation"):
            metrics[part.name] = judge(part.logits, part.patches, temperature=part.temperature, seed=seed)
    outside = [part for part in parts if part.name.startswith("fold")]
    if outside:
        metrics["folds"] = judge(
            np.concatenate([part.logits for part in outside]),
            joined(outside),
            temperature=np.repeat([part.temperature for part in outside], [len(p.patches) for p in outside]),
            seed=seed,
        )
        metrics["per_fold"] = [judge(part.logits, part.patches)["accuracy"] for part in outside]
    return metrics


def _manifest(
    data: TrainTest, subset: LabelledPatches, fitted: Fitted, fraction: float, seed: int
) -> dict[str, Any]:
    return {
        "fraction": fraction,
        "seed": seed,
        "classes": list(subset.classes),
        "labelled_patches": len(data.train),
        "subset": describe_patches(subset),
        "train": describe_patches(subset.subset(fitted.split.train)),
        "validation": describe_patches(subset.subset(fitted.split.held_out)),
        "test": None if data.test is None else describe_patches(data.test),
    }
