"""What arms begin with where nothing is pretrained for them: the plan's start, or one of their own."""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from typing import Protocol

from wsitool.backbones.build import build_backbone, build_encoder, says_its_network, start_digest
from wsitool.backbones.encoder import Encoder
from wsitool.classify.feature_files import FeatureFiles, StandIn
from wsitool.experiment.evaluation_splits import EvaluationSplit
from wsitool.experiment.plan import Arm, ExperimentPlan
from wsitool.store.collection import Collection

__all__ = [
    "BuildStart",
    "KeyOfStart",
    "build_encoder_start",
    "build_stand_in",
    "encoder_key",
    "features_key",
    "init_key",
    "start_encoder",
    "start_key",
]


class BuildStart(Protocol):
    """Makes what an arm begins with."""

    def __call__(self, plan: ExperimentPlan, start: str, split: EvaluationSplit, seed: int) -> Encoder:
        """The encoder that `start` says, or what stands for it; a random one is drawn from `seed`."""
        ...


class KeyOfStart(Protocol):
    """Says what an arm's cells depend on."""

    def __call__(self, plan: ExperimentPlan, start: str, split: EvaluationSplit) -> str:
        """Text that is another for other weights or features."""
        ...


def start_encoder(plan: ExperimentPlan, arm: Arm, split: EvaluationSplit, seed: int) -> Encoder:
    """The encoder an arm without pretraining starts from, by its kind."""
    build: BuildStart = arm.kind.function(arm.kind.build)
    return build(plan, arm.start or plan.init, split, seed)


def start_key(plan: ExperimentPlan, arm: Arm, split: EvaluationSplit) -> str:
    """What the start of an arm without pretraining is, by its kind."""
    key: KeyOfStart = arm.kind.function(arm.kind.key)
    return key(plan, arm.start or plan.init, split)


def build_encoder_start(plan: ExperimentPlan, start: str, split: EvaluationSplit, seed: int) -> Encoder:
    """An encoder; the plan's network where it says none itself."""
    if start != plan.init and says_its_network(start):
        return build_backbone(init=start)
    return build_encoder(plan, start, seed)


def encoder_key(plan: ExperimentPlan, start: str, split: EvaluationSplit) -> str:
    """The name of a standard start, else a hash of the file."""
    return init_key(start, plan.backbone)


# Once a process: a large file is not read for every cell.
@cache
def init_key(init: str, backbone: str | None) -> str:
    """What start weights are."""
    return start_digest(init, backbone)


def build_stand_in(plan: ExperimentPlan, start: str, split: EvaluationSplit, seed: int) -> StandIn:
    """Features made elsewhere, joined to the patches of the plan."""
    return _stand_in(start, split.train.whole.collection)


def features_key(plan: ExperimentPlan, start: str, split: EvaluationSplit) -> str:
    """A hash of the features of all patches that are trained or judged on."""
    stand_in = _stand_in(start, split.train.whole.collection)
    sides = {id(view.whole): view.whole.collection for view in (split.train, split.test)}
    digest = hashlib.sha256()
    for collection in sides.values():
        digest.update(stand_in.features(collection).tobytes())
    return digest.hexdigest()


# Once a process, as the plan's stores are opened; reading and joining them takes seconds.
@lru_cache(maxsize=2)
def _stand_in(folder: str, collection: Collection) -> StandIn:
    return FeatureFiles.at(folder).stand_in(collection)
