"""BYOL: predict a slow teacher's projection of the other view; no negatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import Method, Recipe, Step, ema_update, frozen_copy, hparam, two_views
from wsitool_plugins.parts import BYOLViewParams, rising

__all__ = ["BYOL", "BYOLParams", "regression_loss"]


@dataclass(frozen=True, kw_only=True)
class BYOLParams(BYOLViewParams):
    """BYOL's heads and teacher; the views are asymmetric (appendix B)."""

    hidden_dim: int = hparam(4096, "width of the heads' hidden layers", ge=1)
    projection_dim: int = hparam(256, "width of the projection", ge=2)
    momentum: float = hparam(0.996, "the teacher's momentum at the start; it ends at 1", ge=0, le=1)


class BYOL(Method[BYOLParams]):
    """Grill et al. 2020, Bootstrap your own latent, arXiv:2006.07733.

    The teacher is an exponential moving average of backbone and projection, with momentum rising to 1 along
    a cosine. Only student and predictor are trained.
    """

    params_type = BYOLParams
    recipe = Recipe(optimizer="lars", lr=0.2, batch=256, weight_decay=1.5e-6, warmup=0.01)

    def __init__(self, backbone: nn.Module, feature_dim: int, params: BYOLParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.projection = _mlp(feature_dim, params.hidden_dim, params.projection_dim)
        self.predictor = _mlp(params.projection_dim, params.hidden_dim, params.projection_dim)
        # Copies of the start, as the paper has it.
        self.teacher_backbone = frozen_copy(self.backbone)
        self.teacher_projection = frozen_copy(self.projection)

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return two_views(patches, rng, self.params)

    def loss(self, views: dict[str, Tensor]) -> Step:
        a, b = views["a"], views["b"]
        # The teacher's batch norm is in training mode too: statistics of the batch, no gradient.
        with torch.no_grad():
            target_a, target_b = (self.teacher_projection(self.teacher_backbone(view)) for view in (a, b))
        predicted_a, predicted_b = (self.predictor(self.projection(self.backbone(view))) for view in (a, b))
        loss = regression_loss(predicted_a, target_b) + regression_loss(predicted_b, target_a)
        return Step(loss=loss)

    def after_step(self, progress: float) -> None:
        momentum = rising(self.params.momentum, progress)
        ema_update(self.teacher_backbone, self.backbone, momentum)
        ema_update(self.teacher_projection, self.projection, momentum)


def _mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out)
    )


def regression_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the unit vectors of (n, D) each, 2 - 2 cos, mean over n (equation 2)."""
    with torch.autocast(predicted.device.type, enabled=False):
        return (2 - 2 * F.cosine_similarity(predicted.float(), target.float(), dim=1)).mean()
