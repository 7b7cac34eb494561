"""How long a grid of slides takes: features of all patches for each encoder, and the heads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from wsitool.backbones.build import build_encoder
from wsitool.classify.speed import measure_speed
from wsitool.evaluation.subsets import class_counts
from wsitool.experiment.evaluation_splits import Cell, EvaluationSplit
from wsitool.experiment.plan import ExperimentPlan
from wsitool.mil.speed import seconds_a_label

__all__ = ["encoder_of", "seconds_of_slides"]

_WIDTH = 1024  # of features made elsewhere, nearly enough


def encoder_of(plan: ExperimentPlan, cell: Cell) -> tuple[object, ...]:
    """What tells the encoders of cells apart: a random start is another one for each label seed."""
    if cell.arm.method is None:
        start = cell.arm.start or plan.init
        return start, cell.seed if start == "random" else 0
    return cell.arm.name, cell.split, cell.seed % plan.pretrain_seeds


def seconds_of_slides(
    plan: ExperimentPlan,
    splits: Sequence[EvaluationSplit],
    left: Sequence[Cell],
    device: str,
    pretrained: int,
) -> float:
    """Seconds of the cells `left` on one device, with so many images through pretraining."""
    wholes = {id(view.whole): view for split in splits for view in split.views}
    sizes = [len(bag) for view in wholes.values() for bag in view.bags.bags]
    collections = [view.collection for view in wholes.values() if view.collection is not None]
    encoders = {encoder_of(plan, cell) for cell in left if not cell.arm.kind.frozen}
    seconds, width = 0.0, _WIDTH
    if encoders and collections:
        # The weights do not matter, and none is fetched.
        encoder = build_encoder(plan, "random" if plan.init in ("imagenet", "random") else plan.init)
        width = encoder.feature_dim
        speed = measure_speed(
            encoder,
            image_size=plan.image_size or encoder.card.image_size or collections[0].patch_size,
            batch_size=plan.batch_size,
            device=device,
            precision=plan.settings(device).precision,
            trains=bool(pretrained),
        )
        seconds += (speed.step + speed.view) * pretrained if pretrained else 0.0
        seconds += speed.forward * sum(map(len, collections)) * len(encoders)
    labels: Counter[str] = Counter()
    for cell in left:
        train = splits[cell.split].train.patches
        counts = class_counts(train.labels, cell.fraction, train.classes, balance=plan.balance)
        labels[cell.arm.head] += int(counts.sum())
    for head, count in labels.items():
        seconds += count * seconds_a_label(
            plan.slide_settings(head, device),
            feature_dim=width,
            patches=max(1, round(sum(sizes) / len(sizes))),
            classes=len(splits[0].train.whole.classes),
        )
    return seconds
