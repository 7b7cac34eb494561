"""The features of an arm's slides: made once for all its cells, or those of the files that the arm names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from wsitool.backbones.build import build_backbone
from wsitool.backbones.card import EncoderCard
from wsitool.backbones.device import choose_device
from wsitool.backbones.encoder import Encoder
from wsitool.base.progress import Reporter
from wsitool.classify.checks import chosen_image_size
from wsitool.experiment.evaluation_splits import Cell, EvaluationSplit, View, open_splits
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.stages import ensure, last_stages, start_keys
from wsitool.experiment.starts import start_encoder
from wsitool.loading.device_decode import effective_decode
from wsitool.mil.bags import BagReader, LabelledBags
from wsitool.mil.features import card_of_files
from wsitool.mil.joining import of_other_features
from wsitool.mil.making import FeatureMaker
from wsitool.mil.options import SlideSettings
from wsitool.mil.sources import Side, open_side

__all__ = ["ArmFeatures", "arm_features", "arm_key", "of_files"]

_FILES = "features"


@dataclass(frozen=True, kw_only=True)
class ArmFeatures:
    """Bags as rows of files of features, of training and test side; `reader` keeps what it has read.

    Where both sides are of one whole they are the same bags.
    """

    key: str
    train: LabelledBags
    test: LabelledBags
    card: EncoderCard
    reader: BagReader


def arm_key(plan: ExperimentPlan, cell: Cell) -> str | list[str]:
    """What an arm's features follow from besides the patches."""
    if cell.arm.kind.name != _FILES:
        return start_keys(plan, cell, open_splits(plan)[cell.split])
    bags, _ = of_files(plan, str(cell.arm.start))
    return hashlib.sha256(json.dumps([side.identity_hash() for side in bags]).encode()).hexdigest()


# Once a process, as the plan's data are opened.
@lru_cache(maxsize=4)
def of_files(plan: ExperimentPlan, folder: str) -> tuple[tuple[LabelledBags, ...], Side]:
    """The bags of each side with the features of a folder, and what it holds; as `of_other_features`."""
    side = open_side(folder)
    return tuple(of_other_features(view.bags, side, folder) for view in _wholes(plan)), side


_latest: list[ArmFeatures] = []


def arm_features(
    plan: ExperimentPlan, cell: Cell, out: Path, *, device: str, reporter: Reporter
) -> ArmFeatures:
    """The features that a cell is trained and judged on; of stores they are made, in `out`/features.

    Cells of one encoder follow one another, so that its features are made and read once, and only one
    encoder's are held.
    """
    split = open_splits(plan)[cell.split]
    key = json.dumps([arm_key(plan, cell), _seed(plan, cell), _place(plan, out), cell.arm.start])
    if _latest and _latest[0].key == key:
        return _latest[0]
    _latest.clear()  # before others are made, as these may fill the memory
    if cell.arm.kind.name == _FILES:
        bags, side = of_files(plan, str(cell.arm.start))
        card = card_of_files(side)
    else:
        encoder = _encoder(plan, cell, split, out, device, reporter)
        bags, card = _made(plan, encoder, out, device, reporter), encoder.card
    _latest.append(ArmFeatures(key=key, train=bags[0], test=bags[-1], card=card, reader=BagReader()))
    return _latest[0]


def _wholes(plan: ExperimentPlan) -> Sequence[View]:
    """A view of each whole: the training side's and, where it is another, the test side's."""
    views = open_splits(plan)[0].views
    return views[:1] if views[0].whole is views[1].whole else views


def _seed(plan: ExperimentPlan, cell: Cell) -> int | None:
    # Only a random start draws from the seed: each label seed then has a start of its own.
    is_random = cell.arm.method is None and (cell.arm.start or plan.init) == "random"
    return plan.seed + cell.seed if is_random else None


def _place(plan: ExperimentPlan, out: Path) -> list[str | int | None]:
    """What tells two plans of one process apart."""
    return [str(out), plan.identity, plan.image_size, *(view.bags.identity_hash() for view in _wholes(plan))]


def _encoder(
    plan: ExperimentPlan, cell: Cell, split: EvaluationSplit, out: Path, device: str, reporter: Reporter
) -> Encoder:
    """The encoder of a cell, pretrained where it is not there yet."""
    seed = plan.seed + cell.seed
    build = partial(start_encoder, plan, cell.arm, split, seed)
    for stage in last_stages(plan, cell, split):
        build = partial(build_backbone, init=ensure(plan, stage, out / "pretrain", device, reporter))
    return build()


def _made(
    plan: ExperimentPlan, encoder: Encoder, out: Path, device: str, reporter: Reporter
) -> tuple[LabelledBags, ...]:
    views = _wholes(plan)
    patch_size = next(view.collection.patch_size for view in views if view.collection is not None)
    maker = FeatureMaker(
        encoder=encoder,
        image_size=chosen_image_size(plan.image_size, encoder, patch_size),
        folder=plan.features_folder(out),
        device=device,
        decode=effective_decode(SlideSettings.decode, choose_device(device)),
        batch_size=plan.batch_size,
        reporter=reporter,
    )
    return tuple(
        maker.made(view.bags, view.collection) if view.collection is not None else view.bags for view in views
    )
