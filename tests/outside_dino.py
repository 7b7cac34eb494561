"""DINO as someone outside would write it: of the public names alone, on one screen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool import api

__all__ = ["OutsideDINO"]


@dataclass(frozen=True, kw_only=True)
class OutsideParams(api.ViewParams):
    """Sizes of a head, and crops."""

    outputs: int = api.hparam(4096, "width of what is said", ge=2)
    hidden_dim: int = api.hparam(512, "width of the head", ge=1)
    local_crops: int = api.hparam(6, "small crops of a patch", ge=1)
    momentum: float = api.hparam(0.996, "the teacher's, at the start", ge=0, le=1)


class OutsideDINO(api.Method[OutsideParams]):
    """Caron et al. 2021, arXiv:2104.14294."""

    params_type = OutsideParams
    recipe = api.Recipe(optimizer="adamw", lr=5e-4, batch=256, warmup=0.1, weight_decay=0.04, clip_grad=3.0)
    center: Tensor

    def __init__(self, backbone: nn.Module, feature_dim: int, params: OutsideParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.head = nn.Sequential(
            nn.Linear(feature_dim, params.hidden_dim), nn.GELU(), nn.Linear(params.hidden_dim, 64)
        )
        self.last = nn.Parameter(torch.randn(params.outputs, 64))
        self.teacher, self.teacher_head = api.frozen_copy(self.backbone), api.frozen_copy(self.head)
        self.register_buffer("teacher_last", self.last.detach().clone())
        self.register_buffer("center", torch.zeros(params.outputs))
        self.temperature, self.means = 0.04, list[Tensor]()

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        side = max(1, round(patches.shape[-1] * 3 / 7 / 8)) * 8
        kinds = [
            api.Crop(count=2, scale=(0.4, 1.0)),
            api.Crop(count=self.params.local_crops, size=side, scale=(0.05, 0.4)),
        ]
        large, small = api.crops(patches, rng, kinds, self.params)
        return {"large": large, "small": small}

    def loss(self, views: dict[str, Tensor]) -> api.Step:
        with torch.no_grad():
            taught = self.teacher_head(self.teacher(views["large"]))
        said = self.head(torch.cat([self.backbone(views["large"]), self.backbone(views["small"])]))
        n = len(taught) // 2
        with torch.autocast(said.device.type, enabled=False):
            taught = cosines(taught, self.teacher_last)
            if self.training:
                self.means.append(taught.mean(dim=0))
            target = ((taught - self.center.to(taught)) / self.temperature).softmax(dim=1)
            logits = (cosines(said, self.last) / 0.1).log_softmax(dim=1)
            terms = -torch.einsum("tnk,vnk->tv", *(x.view(-1, n, x.shape[1]) for x in (target, logits))) / n
            loss = (terms.sum() - terms.diagonal().sum()) / (terms.numel() - 2)
        return api.Step(loss=loss, chance_loss=math.log(self.params.outputs))

    def before_step(self, progress: api.Progress) -> None:
        self.temperature = 0.04 + 0.03 * min(1.0, progress.share / 0.3)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        momentum = 1 - (1 - self.params.momentum) * (math.cos(math.pi * progress) + 1) / 2
        api.ema_update(self.teacher, self.backbone, momentum)
        api.ema_update(self.teacher_head, self.head, momentum)
        self.teacher_last.lerp_(self.last, 1 - momentum)
        for mean in self.means:
            self.center.lerp_(api.all_gather(mean[None]).mean(dim=0).to(self.center), 0.1)
        self.means.clear()

    def param_groups(self) -> list[api.ParamGroup]:
        return [api.ParamGroup(params=(self.last,), frozen_until=0.01)]

    def encoder(self) -> nn.Module:
        return self.teacher


def cosines(features: Tensor, weights: Tensor) -> Tensor:
    """(N, D) and (K, D) to (N, K), in float32 at least."""
    features = features if features.dtype == torch.float64 else features.float()
    return F.linear(F.normalize(features, dim=1), F.normalize(weights.to(features), dim=1))
