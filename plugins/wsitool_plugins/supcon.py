"""SupCon: SimCLR in which all patches of a class attract each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import (
    Meta,
    Method,
    Recipe,
    Step,
    ViewParams,
    all_gather,
    hparam,
    rank,
    to_device,
    two_views,
)

__all__ = ["SupCon", "SupConParams", "supcon_loss"]


@dataclass(frozen=True, kw_only=True)
class SupConParams(ViewParams):
    """Temperature and projection of SupCon; the views are SimCLR's."""

    temperature: float = hparam(0.1, "temperature of the loss", gt=0)
    projection_dim: int = hparam(128, "width of the projection", ge=2)


class SupCon(Method[SupConParams]):
    """Khosla et al. 2020, Supervised contrastive learning, arXiv:2004.11362.

    The loss is L_out (equation 2). A patch without a label is of no class: only its other view attracts it.
    """

    params_type = SupConParams
    uses_batch_negatives = True
    needs = frozenset({"labels"})
    recipe = Recipe(optimizer="sgd", lr=0.125, batch=256, weight_decay=1e-4, warmup=0.01)

    def __init__(self, backbone: nn.Module, feature_dim: int, params: SupConParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.projection = nn.Sequential(
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(inplace=True),
            nn.Linear(feature_dim, params.projection_dim),
        )

    def views(self, patches: Tensor, rng: Generator, meta: Meta) -> dict[str, Tensor]:  # type: ignore[override]
        return two_views(patches, rng, self.params) | {"labels": to_device(meta.labels, patches.device)}

    def loss(self, views: dict[str, Tensor]) -> Step:
        images = torch.cat([views["a"], views["b"]])  # (2n, 3, P, P)
        za, zb = self.projection(self.backbone(images)).chunk(2)  # (n, D) each
        loss = supcon_loss(za, zb, views["labels"], self.params.temperature)
        labelled = (views["labels"] >= 0).float().mean()
        chance = math.log(2 * len(all_gather(views["labels"])) - 1)
        return Step(loss=loss, metrics={"labelled": labelled}, chance_loss=chance)


def supcon_loss(za: Tensor, zb: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Mean over 2n anchors of the mean over their positives of -log softmax, of projections (n, D).

    Positives are the other view and both views of all patches with the same of `labels` (n,), -1 being none;
    cosines over `temperature`. Across ranks, local anchors meet the candidates of all.
    """
    with torch.autocast(za.device.type, enabled=False):  # half precision would round the log-sum-exp away
        za, zb = (F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1) for z in (za, zb))
        everyone = torch.cat([all_gather(za), all_gather(zb)])  # (2N, D)
        scores = torch.cat([za, zb]) @ everyone.T / temperature  # (2n, 2N)
        classes = all_gather(labels).repeat(2)  # (2N,)
        n, total = len(za), len(everyone) // 2
        row = torch.arange(2 * n, device=za.device)
        itself = rank() * n + row % n + row // n * total
        other = (itself + total) % (2 * total)
        mine = labels.repeat(2)[:, None]
        positive = ((classes == mine) & (mine >= 0)).scatter(1, other[:, None], True)
        positive = positive.scatter(1, itself[:, None], False)
        # Not minus infinity, which times no positive would be no number.
        scores = scores.scatter(1, itself[:, None], -1e9)
        likelihood = (scores.log_softmax(dim=1) * positive).sum(dim=1) / positive.sum(dim=1)
        return -likelihood.mean()
