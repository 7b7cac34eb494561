"""Barlow Twins: make the cross-correlation of two views' projections the identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from wsitool.api import Method, Recipe, Step, all_gather, hparam, two_views
from wsitool_plugins.parts import BYOLViewParams

__all__ = ["BarlowTwins", "BarlowTwinsParams", "barlow_twins_loss"]

# As batch norm's: the paper standardises with it.
_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsParams(BYOLViewParams):
    """Barlow Twins' projection and trade-off; the views are BYOL's."""

    projection_dim: int = hparam(8192, "width of the projection and its hidden layers", ge=2)
    redundancy: float = hparam(0.005, "weight lambda of the redundancy reduction", ge=0)


class BarlowTwins(Method[BarlowTwinsParams]):
    """Zbontar et al. 2021, Barlow Twins, arXiv:2103.03230.

    Batch norm of the projections is over the batch of all ranks together.
    """

    params_type = BarlowTwinsParams
    recipe = Recipe(optimizer="lars", lr=0.2, batch=256, weight_decay=1.5e-6, warmup=0.01)

    def __init__(self, backbone: nn.Module, feature_dim: int, params: BarlowTwinsParams) -> None:
        super().__init__(backbone, feature_dim, params)
        width = params.projection_dim
        self.projection = nn.Sequential(
            nn.Linear(feature_dim, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
        )

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return two_views(patches, rng, self.params)

    def loss(self, views: dict[str, Tensor]) -> Step:
        za, zb = (self.projection(self.backbone(views[name])) for name in ("a", "b"))  # (n, D) each
        return Step(loss=barlow_twins_loss(za, zb, self.params.redundancy))


def barlow_twins_loss(za: Tensor, zb: Tensor, redundancy: float) -> Tensor:
    """sum_i (1 - C_ii)^2 + redundancy * sum_{i != j} C_ij^2 with C the cross-correlation of (n, D) each.

    Across ranks, C is that of the whole batch.
    """
    # Half precision would lose the sums over the batch.
    with torch.autocast(za.device.type, enabled=False):
        za, zb = (_standardize(all_gather(_single(z))) for z in (za, zb))  # (N, D) each
        correlation = za.T @ zb / len(za)  # (D, D)
        on_diagonal = (1 - correlation.diagonal()).square().sum()
        # All squares less the diagonal's: a mask of (D, D) would cost as much memory again.
        off_diagonal = correlation.square().sum() - correlation.diagonal().square().sum()
        return on_diagonal + redundancy * off_diagonal


def _single(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _standardize(z: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the batch, as batch norm does it."""
    return (z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + _EPS).sqrt()
