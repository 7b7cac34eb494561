"""SimCLR: two views of a patch attract each other, all other views of the batch repel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import Method, Step, ViewParams, all_gather, hparam, rank, two_views

__all__ = ["SimCLR", "SimCLRParams", "nt_xent"]


@dataclass(frozen=True, kw_only=True)
class SimCLRParams(ViewParams):
    """Temperature and projection of SimCLR; the views' defaults are SimCLR's own."""

    # With patches so alike as stained tissue, .5 hardly tells them apart in batches of a hundred or so.
    presets = {"histology": {**ViewParams.presets["histology"], "temperature": 0.1}}

    temperature: float = hparam(0.5, "temperature of the NT-Xent loss", gt=0)
    hidden_dim: int | None = hparam(None, "width of the projection's hidden layer (as the features)", ge=1)
    projection_dim: int = hparam(128, "width of the projection", ge=2)


class SimCLR(Method[SimCLRParams]):
    """Chen et al. 2020, A simple framework for contrastive learning, arXiv:2002.05709.

    Both views go through the encoder as one batch; the projection is two linear layers with batch norm.
    """

    params_type = SimCLRParams
    uses_batch_negatives = True

    def __init__(self, backbone: nn.Module, feature_dim: int, params: SimCLRParams) -> None:
        super().__init__(backbone, feature_dim, params)
        hidden = params.hidden_dim or feature_dim
        self.projection = nn.Sequential(
            nn.Linear(feature_dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, params.projection_dim, bias=False),
            nn.BatchNorm1d(params.projection_dim),
        )

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return two_views(patches, rng, self.params)

    def loss(self, views: dict[str, Tensor]) -> Step:
        images = torch.cat([views["a"], views["b"]])  # (2n, 3, P, P)
        za, zb = self.projection(self.backbone(images)).chunk(2)  # (n, D) each
        scores, positive = _scores(za, zb, self.params.temperature)
        top1 = (scores.argmax(dim=1) == positive).float().mean()
        chance = math.log(scores.shape[1] - 1)  # every other view of the batch as likely
        metrics = {"top1": top1, "temperature": torch.tensor(self.params.temperature)}
        return Step(loss=F.cross_entropy(scores, positive), metrics=metrics, chance_loss=chance)


def nt_xent(za: Tensor, zb: Tensor, temperature: float) -> Tensor:
    """NT-Xent of projections (n, D) of two views: mean over 2n anchors of -log softmax at the positive.

    Cosine similarity over `temperature`; float32 at least. Across ranks, local anchors meet the candidates of
    all ranks, and the mean of the ranks' losses is the loss of the whole batch.
    """
    return F.cross_entropy(*_scores(za, zb, temperature))


def _scores(za: Tensor, zb: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Scores (2n, 2N) of local anchors against all candidates, and each anchor's positive (2n,)."""
    with torch.autocast(za.device.type, enabled=False):  # half precision would round the log-sum-exp away
        za, zb = (F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1) for z in (za, zb))
        everyone = torch.cat([all_gather(za), all_gather(zb)])  # (2N, D)
        scores = torch.cat([za, zb]) @ everyone.T / temperature
    n, total = len(za), len(everyone) // 2
    row = torch.arange(2 * n, device=za.device)
    # Column of each anchor in the gathered order: all ranks' first views, then all second ones.
    itself = rank() * n + row % n + row // n * total
    # Never its own negative: the softmax leaves it out.
    scores = scores.scatter(1, itself[:, None], float("-inf"))
    # The other view is half the columns on.
    return scores, (itself + total) % (2 * total)
