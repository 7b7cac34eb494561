"""What is looked at before a classification run costs time: choices, labels, leaks, resolutions."""

from __future__ import annotations

from wsitool.backbones.encoder import Encoder
from wsitool.backbones.resolution import mixed_resolutions, resolution_warnings
from wsitool.base.progress import Reporter
from wsitool.classify.data import TrainTest
from wsitool.classify.settings import ClassifyOptions, Settings
from wsitool.errors import UsageError
from wsitool.evaluation.amounts import check_order
from wsitool.evaluation.duplicates import near_duplicates
from wsitool.evaluation.labels import LabelledPatches
from wsitool.evaluation.leakage import check_pretraining
from wsitool.evaluation.subsets import class_counts
from wsitool.store.splits import group_folds

__all__ = [
    "check_amounts",
    "check_choices",
    "check_leaks",
    "chosen_image_size",
    "near_duplicates_in_test",
    "say_transductive",
]

_LEAST_IMAGE_SIZE = 16


def check_choices(options: ClassifyOptions, settings: Settings) -> None:
    """What cannot work together, before any file is opened."""
    if options.features is not None:
        if not settings.frozen:
            raise UsageError("--features are of an encoder that stays as it is: use --head linear or knn.")
        if options.stain_norm is not None:
            raise UsageError("--features were made elsewhere: leave out --stain-norm.")
        if options.encoder != "imagenet" or options.backbone is not None:
            raise UsageError("--features take the place of an encoder: leave out --encoder and --backbone.")
    check_order(options.select, settings.balance)
    if settings.held_out == 0 and not options.test and options.folds is None:
        raise UsageError("--validation 0 leaves nothing to evaluate on: give --test or --folds.")


def check_amounts(train: LabelledPatches, asked: ClassifyOptions, settings: Settings) -> None:
    """What would fail later, before anything costs time."""
    class_counts(train.labels, asked.amount, train.classes, balance=settings.balance)
    if asked.folds is not None:
        group_folds(train.labels, train.group_index, folds=asked.folds, seed=asked.seed)


def check_leaks(data: TrainTest, encoder: Encoder, options: ClassifyOptions, reporter: Reporter) -> list[str]:
    """The groups that pretraining has seen and the figures rest on, if that is allowed; also mpp warnings."""
    evaluated = data.test if data.test is not None else data.train if options.folds else None
    seen: list[str] = []
    if evaluated is not None:
        groups = evaluated.groups.tolist()
        seen = check_pretraining(encoder.card.groups, groups, allowed=options.allow_transductive)
    _warn(data, encoder, seen, reporter)
    return seen


def _warn(data: TrainTest, encoder: Encoder, seen: list[str], reporter: Reporter) -> None:
    say_transductive(seen, reporter)
    sides = [data.train.collection, *([data.test.collection] if data.test else [])]
    for warning in resolution_warnings(encoder.card, *sides) + mixed_resolutions(*sides):
        reporter.warn(warning)


def say_transductive(seen: list[str], reporter: Reporter) -> None:
    """Warn of the groups that pretraining has `seen` and the figures rest on, where there are any."""
    if seen:
        reporter.warn(
            f"Transductive: the encoder was pretrained, without labels, on {len(seen)} of the groups it is "
            "judged on."
        )


def near_duplicates_in_test(data: TrainTest, reporter: Reporter) -> int:
    """How many test patches look like training patches; a warning if any does."""
    if data.test is None:
        return 0
    duplicates = near_duplicates(data.train.collection, data.test.collection)
    if duplicates.pairs:
        reporter.warn(duplicates.sentence())
    return duplicates.count


def chosen_image_size(asked: int | None, encoder: Encoder, patch_size: int) -> int:
    size = asked or encoder.card.image_size or patch_size
    if size < _LEAST_IMAGE_SIZE:
        raise UsageError(f"--image-size must be at least {_LEAST_IMAGE_SIZE} px, got {size}.")
    return size
