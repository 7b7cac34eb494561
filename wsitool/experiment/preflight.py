"""What would fail hours later is refused before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from wsitool.backbones.build import build_encoder
from wsitool.backbones.resolution import mixed_resolutions, resolution_warnings
from wsitool.base.progress import SILENT, Reporter
from wsitool.errors import LabelError, UsageError
from wsitool.evaluation.amounts import percent
from wsitool.evaluation.leakage import check_pretraining
from wsitool.evaluation.subsets import class_counts
from wsitool.experiment.evaluation_splits import EvaluationSplit, auxiliary_data
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.slide_features import of_files
from wsitool.experiment.starts import start_encoder, start_key
from wsitool.methods.meta import check_needs
from wsitool.methods.registry import load_method

__all__ = ["check_plan"]


def check_plan(plan: ExperimentPlan, splits: Sequence[EvaluationSplit], reporter: Reporter = SILENT) -> None:
    """LabelError for too small fractions, UsageError for test groups as auxiliary, and `load_method`'s.

    Opens the auxiliary stores, imports every method of the plan and builds every encoder that it names, of
    which what must be known is said (EncoderError where one cannot be); computes nothing.
    """
    _check_fractions(plan, splits)
    for arm in plan.arms:
        if arm.method is not None:
            _check_method(arm.method, plan, splits)
    _check_starts(plan, splits, reporter)
    seen = {group for arm in plan.arms if arm.auxiliary for group in auxiliary_data(plan, arm).groups}
    if seen:
        # Each split's test set by itself, so that all are looked at.
        for split in splits:
            test = split.test.patches.groups.tolist()
            check_pretraining(seen, test, allowed=plan.allow_transductive)


def _check_method(name: str, plan: ExperimentPlan, splits: Sequence[EvaluationSplit]) -> None:
    # Loading it is a check: a plugin that is broken or not installed is named now.
    kind = load_method(name)
    if "labels" in kind.needs:
        raise UsageError(
            f"The method '{name}' learns from labels, so that an arm of it would know more of them than its "
            "fraction: leave it out of --methods."
        )
    if kind.needs:
        encoder = build_encoder(plan, plan.init)
        for split in splits:
            check_needs(kind, name, split.unlabelled, encoder)


def _check_starts(plan: ExperimentPlan, splits: Sequence[EvaluationSplit], reporter: Reporter) -> None:
    """Build each start that is no standard one, as its cells will, and tell how its weights were read."""
    starts = {arm.start or plan.init: arm for arm in plan.arms}
    wholes = {id(view.whole): view.collection for split in splits for view in split.views}
    collections = [collection for collection in wholes.values() if collection is not None]
    if collections:
        for warning in mixed_resolutions(*collections):
            reporter.warn(warning)
    for init, arm in starts.items():
        if plan.of_slides and arm.kind.frozen:
            of_files(plan, init)
            continue
        if len(collections) < len(wholes):
            raise UsageError(
                f"The arm {arm.name} needs patches, and --train holds features: name arms of features, "
                f"--methods features:{plan.train[0]}, or give --train stores."
            )
        # Standard starts are not fetched again where all their cells are finished.
        if init in ("imagenet", "random"):
            continue
        encoder = start_encoder(plan, arm, splits[0], plan.seed)
        for note in encoder.notes:
            reporter.say(f"{init}: {note}")
        for warning in resolution_warnings(encoder.card, *collections):
            reporter.warn(f"{init}: {warning}")
        for split in splits:
            # Of features those of the test patches are looked for, too.
            start_key(plan, arm, split)
            groups = split.test.patches.groups.tolist()
            check_pretraining(encoder.card.groups, groups, allowed=plan.allow_transductive)


def _check_fractions(plan: ExperimentPlan, splits: Sequence[EvaluationSplit]) -> None:
    # Two of each class where one is trained on and one validated with.
    least = 2 if plan.validates else 1
    for split in splits:
        train = split.train.patches
        for fraction in plan.amounts:
            counts = class_counts(
                train.labels, fraction, train.classes, balance=plan.balance, what=plan.counted
            )
            if counts.min() < least:
                rarest = train.classes[int(counts.argmin())]
                otherwise = (
                    ", or leave nothing to choose: --c 1 for head mean, --validation 0 for attention"
                    if plan.of_slides
                    else ""
                )
                raise LabelError(
                    f"{percent(fraction)} of the labels is a single {plan.one} of {rarest}, and 2 of each "
                    "class are needed, one to train on and one to validate with: use a larger fraction, or "
                    f"label more {plan.counted}{otherwise}."
                )
