"""RotNet: predict by how many quarter turns a patch was rotated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import Method, Params, Step, to_float

__all__ = ["Rotation", "RotationParams"]


@dataclass(frozen=True, kw_only=True)
class RotationParams(Params):
    """RotNet has nothing to set."""


class Rotation(Method[RotationParams]):
    """Gidaris et al. 2018, Unsupervised representation learning by image rotations, arXiv:1803.07728.

    All four rotations of every patch are in one batch; class k is k quarter turns counter-clockwise. Pixels
    are moved, never interpolated, and nothing else is done to them: chance is 25 %, a loss of ln 4.
    """

    params_type = RotationParams
    images_per_patch = 4
    shortcut_metric = "rotation_accuracy"

    def __init__(self, backbone: nn.Module, feature_dim: int, params: RotationParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.classifier = nn.Linear(feature_dim, 4)

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        # rot90 moves pixels; no interpolation whose traces would give the turn away.
        images = torch.cat([torch.rot90(patches, turns, (-2, -1)) for turns in range(4)])  # (4B, 3, P, P)
        turns = torch.arange(4, device=patches.device).repeat_interleave(len(patches))  # (4B,)
        return {"images": to_float(images), "turns": turns}

    def loss(self, views: dict[str, Tensor]) -> Step:
        scores = self.classifier(self.backbone(views["images"])).float()  # (4B, 4)
        accuracy = (scores.argmax(dim=1) == views["turns"]).float().mean()
        loss = F.cross_entropy(scores, views["turns"])
        return Step(loss=loss, metrics={"rotation_accuracy": accuracy}, chance_loss=math.log(4))
