"""VICReg: bring two views together while every dimension varies and no two say the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import Method, Recipe, Step, ViewParams, all_gather, hparam, two_views

__all__ = ["VICReg", "VICRegParams", "covariance", "variance"]

_EPS = 1e-4


@dataclass(frozen=True, kw_only=True)
class VICRegParams(ViewParams):
    """VICReg's expander and the weights of its three terms."""

    strength: float = hparam(0.5, "strength s of the colour jitter (.8s, .8s, saturation*s, .2s)", ge=0, le=1)
    saturation: float = hparam(0.4, "saturation jitter at strength 1", ge=0, le=1)
    solarize_p: float = hparam(0.1, "share of second views whose bright half is inverted", ge=0, le=1)
    solarize_p_first: float = hparam(0.1, "share of first views whose bright half is inverted", ge=0, le=1)
    projection_dim: int = hparam(8192, "width of the expander's layers", ge=2)
    invariance: float = hparam(25.0, "weight lambda of the distance between views", ge=0)
    variance: float = hparam(25.0, "weight mu of the variance term", ge=0)
    covariance: float = hparam(1.0, "weight nu of the covariance term", ge=0)


class VICReg(Method[VICRegParams]):
    """Bardes et al. 2022, VICReg: variance-invariance-covariance regularization, arXiv:2105.04906.

    The variance term is halved over the two views, as in the authors' code.
    """

    params_type = VICRegParams
    recipe = Recipe(optimizer="lars", lr=0.2, batch=256, weight_decay=1e-6, warmup=0.01)

    def __init__(self, backbone: nn.Module, feature_dim: int, params: VICRegParams) -> None:
        super().__init__(backbone, feature_dim, params)
        width = params.projection_dim
        self.expander = nn.Sequential(
            nn.Linear(feature_dim, width),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
        )

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return two_views(patches, rng, self.params)

    def loss(self, views: dict[str, Tensor]) -> Step:
        za, zb = (self.expander(self.backbone(views[name])) for name in ("a", "b"))  # (n, D) each
        p = self.params
        with torch.autocast(za.device.type, enabled=False):
            za, zb = (z if z.dtype == torch.float64 else z.float() for z in (za, zb))
            near = F.mse_loss(za, zb)
            za, zb = all_gather(za), all_gather(zb)  # variance and covariance are those of the whole batch
            spread = (variance(za) + variance(zb)) / 2
            redundant = covariance(za) + covariance(zb)
            loss = p.invariance * near + p.variance * spread + p.covariance * redundant
        terms = {"invariance": near, "variance": spread, "covariance": redundant}
        return Step(loss=loss, metrics={name: term.detach() for name, term in terms.items()})


def variance(z: Tensor) -> Tensor:
    """Mean over dimensions of max(0, 1 - std) of z (N, D) (equation 1)."""
    return F.relu(1 - (z.var(dim=0) + _EPS).sqrt()).mean()


def covariance(z: Tensor) -> Tensor:
    """Sum of the squared off-diagonal entries of the covariance of z (N, D), over D (equation 4)."""
    centerd = z - z.mean(dim=0)
    matrix = centerd.T @ centerd / (len(z) - 1)  # (D, D)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / z.shape[1]
