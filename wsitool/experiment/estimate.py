"""How long a grid will take, from one measured training step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsitool.classify.head_registry import HEADS
from wsitool.classify.speed import seconds_per_image
from wsitool.evaluation.subsets import class_counts
from wsitool.experiment.cells import is_finished
from wsitool.experiment.evaluation_splits import all_cells, open_splits
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.preflight import check_plan
from wsitool.experiment.stages import Pretraining, pretrainings
from wsitool.methods.registry import load_method

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a grid consists of, and what of it is left to do.

    Images and `seconds` are those still to come; `seconds` on one device is rough (within a factor of two or
    so).
    """

    cells: int
    finished: int
    pretrainings: dict[str, Pretraining]
    pretrained_images: int
    trained_images: int
    seconds: float


def estimate(plan: ExperimentPlan, out: Path, *, device: str = "auto") -> Estimate:
    """Count the grid's work and time one step of the backbone on random images at the plan's size.

    Raises what `check_plan` raises.
    """
    # Opens data and methods first: an estimate of what cannot start would be worth nothing.
    check_plan(plan, open_splits(plan))
    cells, stages = all_cells(plan), pretrainings(plan, out)
    left = [cell for cell in cells if not is_finished(plan, cell, out)]
    splits = open_splits(plan)
    ahead = [stage for stage in stages.values() if not stage.finished]
    pretrained = sum(
        load_method(stage.method).images_per_patch * stage.patches * stage.epochs for stage in ahead
    )
    trained = forward = 0
    held_out = plan.settings(device).held_out
    for cell in left:
        train = splits[cell.split].train.patches
        # Both sides: `validation` of it is held out, the rest is trained on.
        counts = class_counts(train.labels, cell.fraction, train.classes, balance=plan.balance)
        subset = int(counts.sum())
        if not HEADS[plan.head].frozen:
            inside = round(subset * (1 - held_out))
            epochs = plan.settings(device).epochs_of(inside)
            tries = epochs * (1 if cell.arm.method is None else len(plan.pretrain_lrs))
            trained += inside * tries
            forward += round(subset * held_out) * tries + len(splits[cell.split].test.rows)
    if HEADS[plan.head].frozen and left:  # features of everything once for the start and for each encoder
        wholes = {id(view.whole): len(view.whole) for split in splits for view in (split.train, split.test)}
        forward = (len(ahead) + 1) * sum(wholes.values())
    per_image = seconds_per_image(
        plan,
        init=plan.init,
        image_size=plan.image_size or splits[0].train.whole.collection.patch_size,
        # 32 at most: the rate is asked for, not the memory.
        batch_size=min(plan.batch_size, 32),
        device=device,
    )
    return Estimate(
        cells=len(cells),
        finished=len(cells) - len(left),
        pretrainings=stages,
        pretrained_images=pretrained,
        trained_images=trained,
        seconds=per_image * (pretrained + trained + forward / 3),  # a forward pass is a third of a step
    )
