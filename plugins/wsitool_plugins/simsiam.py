"""SimSiam: predict the other view's projection, with gradient stopped there; no negatives, no teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import Method, ParamGroup, Recipe, Step, ViewParams, hparam, two_views

__all__ = ["SimSiam", "SimSiamParams", "negative_cosine"]


@dataclass(frozen=True, kw_only=True)
class SimSiamParams(ViewParams):
    """SimSiam's heads; the views are MoCo v2's."""

    min_scale: float = hparam(0.2, "smallest share of the patch a crop keeps", gt=0, le=1)
    strength: float = hparam(0.5, "strength s of the colour jitter (.8s, .8s, saturation*s, .2s)", ge=0, le=1)
    projection_dim: int = hparam(2048, "width of the projection and its hidden layers", ge=2)
    predictor_dim: int = hparam(512, "width of the predictor's bottleneck", ge=1)


class SimSiam(Method[SimSiamParams]):
    """Chen & He 2021, Exploring simple siamese representation learning, arXiv:2011.10566.

    `output_std` is the spread of the unit projections times sqrt(D): near 1 where they fill the sphere, 0
    where the method has collapsed (figure 2).
    """

    params_type = SimSiamParams
    recipe = Recipe(optimizer="sgd", lr=0.05, batch=256, weight_decay=1e-4)

    def __init__(self, backbone: nn.Module, feature_dim: int, params: SimSiamParams) -> None:
        super().__init__(backbone, feature_dim, params)
        width, bottleneck = params.projection_dim, params.predictor_dim
        self.projection = nn.Sequential(
            nn.Linear(feature_dim, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width, affine=False),
        )
        self.predictor = nn.Sequential(
            nn.Linear(width, bottleneck, bias=False),
            nn.BatchNorm1d(bottleneck),
            nn.ReLU(inplace=True),
            nn.Linear(bottleneck, width),
        )

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return two_views(patches, rng, self.params)

    def loss(self, views: dict[str, Tensor]) -> Step:
        za, zb = (self.projection(self.backbone(views[name])) for name in ("a", "b"))  # (n, D) each
        loss = (negative_cosine(self.predictor(za), zb) + negative_cosine(self.predictor(zb), za)) / 2
        unit = F.normalize(za.detach().float(), dim=1)
        return Step(loss=loss, metrics={"output_std": unit.std(dim=0).mean() * unit.shape[1] ** 0.5})

    def param_groups(self) -> Sequence[ParamGroup]:
        # Its rate does not fall (section 4.2): it is to follow the latest projections.
        return [ParamGroup(params=tuple(self.predictor.parameters()), scheduled=False)]


def negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """-cos of (n, D) each, mean over n, with no gradient to `target` (equation 1)."""
    with torch.autocast(predicted.device.type, enabled=False):
        return -F.cosine_similarity(predicted.float(), target.detach().float(), dim=1).mean()
