"""DCL: SimCLR without the positive pair in the denominator, so that small batches learn as large ones do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import Method, Step, ViewParams, all_gather, hparam, rank, two_views

__all__ = ["DCL", "DCLParams", "dcl_loss"]


@dataclass(frozen=True, kw_only=True)
class DCLParams(ViewParams):
    """Temperature, weighting and projection of DCL; the views are SimCLR's."""

    temperature: float = hparam(0.1, "temperature of the loss", gt=0)
    sigma: float | None = hparam(None, "weight positive pairs as DCLW does; 0.5 in the paper", gt=0)
    projection_dim: int = hparam(128, "width of the projection", ge=2)


class DCL(Method[DCLParams]):
    """Yeh et al. 2022, Decoupled contrastive learning, arXiv:2110.06848."""

    params_type = DCLParams
    uses_batch_negatives = True

    def __init__(self, backbone: nn.Module, feature_dim: int, params: DCLParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.projection = nn.Sequential(
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(inplace=True),
            nn.Linear(feature_dim, params.projection_dim),
        )

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return two_views(patches, rng, self.params)

    def loss(self, views: dict[str, Tensor]) -> Step:
        images = torch.cat([views["a"], views["b"]])  # (2n, 3, P, P)
        za, zb = self.projection(self.backbone(images)).chunk(2)  # (n, D) each
        return Step(loss=dcl_loss(za, zb, self.params.temperature, self.params.sigma))


def dcl_loss(za: Tensor, zb: Tensor, temperature: float, sigma: float | None = None) -> Tensor:
    """Mean over 2n anchors of -w * s_pos + log sum exp(s_neg), the negatives being other patches' views.

    s are cosines over `temperature` of the projections (n, D) of two views. w is 1, or with `sigma` falls
    with the pair's own similarity (equation 6). Across ranks, local anchors meet the candidates of all.
    """
    with torch.autocast(za.device.type, enabled=False):  # half precision would round the log-sum-exp away
        za, zb = (F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1) for z in (za, zb))
        everyone = torch.cat([all_gather(za), all_gather(zb)])  # (2N, D)
        scores = torch.cat([za, zb]) @ everyone.T / temperature  # (2n, 2N)
        n, total = len(za), len(everyone) // 2
        row = torch.arange(2 * n, device=za.device)
        itself = rank() * n + row % n + row // n * total
        own = torch.stack([itself, (itself + total) % (2 * total)], dim=1)  # (2n, 2): anchor and positive
        positive = scores.gather(1, own[:, 1:]).squeeze(1)
        negative = scores.scatter(1, own, float("-inf")).logsumexp(dim=1)
        return (negative - _weights(za, zb, sigma) * positive).mean()


def _weights(za: Tensor, zb: Tensor, sigma: float | None) -> Tensor:
    """(2n,): two minus each pair's von Mises-Fisher density, relative to the mean over all ranks' pairs."""
    n = len(za)
    if sigma is None:
        return za.new_ones(2 * n)
    density = (all_gather((za * zb).sum(dim=1).detach()) / sigma).exp()  # (N,)
    weights = 2 - density / density.mean()
    return weights[rank() * n : (rank() + 1) * n].repeat(2)
