"""MoCo v2: tell a patch's other view from a queue of earlier patches; many negatives, small batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import (
    Method,
    Recipe,
    Step,
    ViewParams,
    all_gather,
    ema_update,
    frozen_copy,
    hparam,
    two_views,
)

__all__ = ["MoCo", "MoCoParams", "info_nce"]


@dataclass(frozen=True, kw_only=True)
class MoCoParams(ViewParams):
    """MoCo's temperature, queue and teacher."""

    min_scale: float = hparam(0.2, "smallest share of the patch a crop keeps", gt=0, le=1)
    strength: float = hparam(0.5, "strength s of the colour jitter (.8s, .8s, saturation*s, .2s)", ge=0, le=1)
    temperature: float = hparam(0.2, "temperature of the InfoNCE loss", gt=0)
    queue: int = hparam(65536, "how many earlier patches are negatives; fewer than the patches at hand", ge=1)
    momentum: float = hparam(0.999, "the key encoder's momentum", ge=0, le=1)
    projection_dim: int = hparam(128, "width of the projection", ge=2)


class MoCo(Method[MoCoParams]):
    """He et al. 2020, arXiv:1911.05722, with head and views of Chen et al. 2020 (MoCo v2, arXiv:2003.04297).

    The queue is that of all ranks together. Batches are not shuffled between GPUs for batch norm: the core
    synchronises batch norm instead.
    """

    params_type = MoCoParams
    recipe = Recipe(optimizer="sgd", lr=0.03, batch=256, weight_decay=1e-4)
    negatives: Tensor
    place: Tensor

    def __init__(self, backbone: nn.Module, feature_dim: int, params: MoCoParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.projection = nn.Sequential(
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(inplace=True),
            nn.Linear(feature_dim, params.projection_dim),
        )
        self.key_backbone = frozen_copy(self.backbone)
        self.key_projection = frozen_copy(self.projection)
        # Unit vectors at random until real keys have come round.
        self.register_buffer(
            "negatives", F.normalize(torch.randn(params.queue, params.projection_dim), dim=1)
        )
        self.register_buffer("place", torch.zeros((), dtype=torch.long))
        self.memory_size = params.queue
        # Not a buffer: keys wait for the optimiser step that they belong to.
        self._new_keys: list[Tensor] = []

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return two_views(patches, rng, self.params)

    def loss(self, views: dict[str, Tensor]) -> Step:
        queries = self.projection(self.backbone(views["a"]))  # (n, D)
        with torch.no_grad():
            keys = self.key_projection(self.key_backbone(views["b"]))  # (n, D)
        # A validation loss must not fill the queue.
        if self.training:
            self._new_keys.append(F.normalize(keys.float(), dim=1))
        loss = info_nce(queries, keys, self.negatives, self.params.temperature)
        return Step(loss=loss, chance_loss=math.log(1 + self.params.queue))

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        ema_update(self.key_backbone, self.backbone, self.params.momentum)
        ema_update(self.key_projection, self.projection, self.params.momentum)
        for keys in self._new_keys:
            # Of a batch larger than the queue the last ones stay.
            everyone = all_gather(keys)[-self.params.queue :].to(self.negatives.dtype)
            # Round the end of the queue.
            rows = (self.place + torch.arange(len(everyone), device=keys.device)) % self.params.queue
            self.negatives[rows] = everyone
            self.place.copy_((self.place + len(everyone)) % self.params.queue)
        self._new_keys.clear()


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """-log softmax at the own key among it and the unit `negatives` (K, D), mean over queries (n, D)."""
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = F.normalize(queries.float(), dim=1), F.normalize(keys.float(), dim=1)
        own = (queries * keys).sum(dim=1, keepdim=True)  # (n, 1)
        scores = torch.cat([own, queries @ negatives.float().T], dim=1) / temperature  # (n, 1 + K)
        return F.cross_entropy(scores, torch.zeros(len(queries), dtype=torch.long, device=queries.device))
