"""How long a grid will take, from what its parts take here on a few images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsitool.backbones.build import build_encoder
from wsitool.backbones.device import threads, threads_each
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.features import encode
from wsitool.classify.penalty import search_penalty
from wsitool.classify.speed import fastest, measure_speed
from wsitool.evaluation.color import color_features
from wsitool.evaluation.duplicates import signatures
from wsitool.evaluation.labels import LabelledPatches
from wsitool.evaluation.subsets import class_counts
from wsitool.experiment.cells import is_finished
from wsitool.experiment.evaluation_splits import Cell, EvaluationSplit, all_cells, open_splits
from wsitool.experiment.grid import chains_of
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.preflight import check_plan
from wsitool.experiment.slide_estimate import encoder_of, seconds_of_slides
from wsitool.experiment.stages import Pretraining, pretrainings
from wsitool.methods.registry import load_method

__all__ = ["Estimate", "estimate"]

# Seconds on two cores of 2026: from the command to the first cell, and one figure of the report.
_START, _FIGURE = 3.0, 0.3
_SAMPLE = 64  # patches that a head is fitted on, and whose colors and likeness are looked at


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a grid consists of, and what of it is left to do.

    Images and `seconds` are those still to come; `seconds` on devices that are otherwise idle.
    """

    cells: int
    finished: int
    pretrainings: dict[str, Pretraining]
    pretrained_images: int
    trained_images: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Images through training and through forward passes alone, and labels through choosing a penalty."""

    trained: int
    forward: int
    searched: int


def estimate(plan: ExperimentPlan, out: Path, *, devices: Sequence[str] = ("auto",)) -> Estimate:
    """Count the grid's work and time its parts at the plan's size: a few seconds.

    Raises what `check_plan` raises.
    """
    splits, device = open_splits(plan), devices[0]
    # Opens data and methods first: an estimate of what cannot start would be worth nothing.
    check_plan(plan, splits)
    cells, stages = all_cells(plan), pretrainings(plan, out)
    left = [cell for cell in cells if not is_finished(plan, cell, out)]
    ahead = [stage for stage in stages.values() if not stage.finished]
    pretrained = sum(
        load_method(stage.method).images_per_patch * stage.patches * stage.epochs for stage in ahead
    )
    if plan.of_slides:
        seconds = seconds_of_slides(plan, splits, left, device, pretrained)
        return Estimate(
            cells=len(cells),
            finished=len(cells) - len(left),
            pretrainings=stages,
            pretrained_images=pretrained,
            trained_images=0,
            seconds=_START + seconds / _at_once(plan, left, devices) + _FIGURE * _figures(plan),
        )
    work = _work(plan, splits, left, device)
    # The weights do not matter, and none is fetched.
    standard = plan.init in ("imagenet", "random")
    encoder = build_encoder(plan, "random" if standard else plan.init)
    whole = splits[0].train.whole
    size = plan.image_size or whole.collection.patch_size
    trains = bool(pretrained or work.trained)
    with threads(threads_each(devices)):
        speed = measure_speed(
            encoder,
            image_size=size,
            batch_size=plan.batch_size,
            device=device,
            precision=plan.settings(device).precision,
            trains=trains,
        )
        seconds = (speed.step + speed.view) * pretrained + speed.step * work.trained
        seconds += speed.forward * work.forward
        if work.searched:
            seconds += work.searched * _seconds_a_label(plan, whole, encoder, size, device)
    seconds /= _at_once(plan, left, devices)
    return Estimate(
        cells=len(cells),
        finished=len(cells) - len(left),
        pretrainings=stages,
        pretrained_images=pretrained,
        trained_images=work.trained,
        seconds=seconds + _around(plan, splits),
    )


def _at_once(plan: ExperimentPlan, left: list[Cell], devices: Sequence[str]) -> int:
    # No more at once than there are chains.
    return min(len(devices), max(1, len(chains_of(plan, left))))


def _figures(plan: ExperimentPlan) -> int:
    return 2 * len(plan.rows) * len(plan.amounts) + 3


def _work(
    plan: ExperimentPlan, splits: Sequence[EvaluationSplit], left: Sequence[Cell], device: str
) -> _Work:
    trained = forward = searched = 0
    settings = plan.settings(device)
    for cell in left:
        train = splits[cell.split].train.patches
        # Both sides: `validation` of it is held out, the rest is trained on.
        counts = class_counts(train.labels, cell.fraction, train.classes, balance=plan.balance)
        subset = int(counts.sum())
        tries = 1 if cell.arm.method is None else len(plan.pretrain_lrs)
        if settings.frozen:
            searched += subset * tries * settings.chooses_by_folds
            continue
        inside = round(subset * (1 - settings.held_out))
        epochs = settings.epochs_of(inside) * tries
        trained += inside * epochs
        # After each epoch, and once more with the weights of the best one.
        forward += round(subset * settings.held_out) * (epochs + tries) + len(splits[cell.split].test.rows)
    wholes = {id(view.whole): len(view.whole) for split in splits for view in (split.train, split.test)}
    # Features of everything once for each encoder that stays as it is, or by which labels are asked for.
    seen = [cell for cell in left if (settings.frozen or cell.asks) and not cell.arm.kind.frozen]
    frozen = {encoder_of(plan, cell): cell for cell in seen}
    encoders = sum(1 if cell.arm.method is None else len(plan.pretrain_lrs) for cell in frozen.values())
    return _Work(trained=trained, forward=forward + encoders * sum(wholes.values()), searched=searched)


def _seconds_a_label(
    plan: ExperimentPlan, whole: LabelledPatches, encoder: Encoder, size: int, device: str
) -> float:
    """Of choosing a penalty and fitting the head, on real features: how soon a fit converges is theirs."""
    some = _some(whole)
    features = encode(encoder, some.collection, image_size=size, device=device)
    weighted, classes = plan.balance == "weighted", len(some.classes)
    if np.bincount(some.labels, minlength=classes).min() < 2:
        return 0.0

    def search() -> None:
        search_penalty(features, some.labels, some.group_index, classes, weighted=weighted)

    return fastest(search, 0) / len(some)


def _around(plan: ExperimentPlan, splits: Sequence[EvaluationSplit]) -> float:
    """What comes before and after the cells: near-duplicates, colors, the report."""
    some = _some(splits[0].train.whole).collection
    a_patch = fastest(lambda: (signatures(some), color_features(some)), 0) / len(some)
    wholes = {id(view.whole): len(view.whole) for split in splits for view in (split.train, split.test)}
    return _START + _FIGURE * _figures(plan) + a_patch * sum(wholes.values())


def _some(patches: LabelledPatches) -> LabelledPatches:
    """Patches from all over, of every class where chance allows."""
    rows = np.random.default_rng(0).permutation(len(patches))[:_SAMPLE]
    return patches.subset(np.sort(rows))
