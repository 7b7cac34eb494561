"""DINO: small crops of a patch are to say what a slow teacher says of large ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from wsitool.api import (
    Method,
    ParamGroup,
    Progress,
    Recipe,
    Step,
    all_gather,
    ema_update,
    frozen_copy,
    hparam,
)
from wsitool_plugins import parts

__all__ = ["DINO", "DINOParams"]

_CENTER_MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class DINOParams(parts.MultiCropParams):
    """DINO's crops, head and teacher; colours are BYOL's."""

    outputs: int = hparam(65536, "width of what student and teacher say", ge=2)
    hidden_dim: int = hparam(2048, "width of the head's hidden layers", ge=1)
    teacher_temperature: float = hparam(0.07, "of the teacher, after 30 % of the steps from .04", gt=0)
    momentum: float = hparam(0.996, "the teacher's momentum at the start; it ends at 1", ge=0, le=1)
    frozen_share: float = hparam(0.01, "share of the steps before the last layer is trained", ge=0, lt=1)


class DINO(Method[DINOParams]):
    """Caron et al. 2021, Emerging properties in self-supervised vision transformers, arXiv:2104.14294.

    The encoder that is kept is the teacher's, as in the paper. `teacher_entropy` falls to 0, or stays at the
    chance loss, where the method has collapsed.
    """

    params_type = DINOParams
    images_per_patch = 4  # in the work of large ones: small crops are a fifth, a teacher has no backward pass
    recipe = Recipe(
        optimizer="adamw",
        lr=5e-4,
        batch=256,
        warmup=0.1,
        weight_decay=0.04,
        final_weight_decay=0.4,
        clip_grad=3.0,
    )
    center: Tensor

    def __init__(self, backbone: nn.Module, feature_dim: int, params: DINOParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.head = parts.DINOHead(feature_dim, params.hidden_dim, params.outputs)
        self.teacher, self.teacher_head = frozen_copy(self.backbone), frozen_copy(self.head)
        self.register_buffer("center", torch.zeros(params.outputs))
        self._temperature = parts.warming(params.teacher_temperature, 0.0)
        # Not a buffer: means wait for the optimiser step that they belong to.
        self._means: list[Tensor] = []

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return parts.large_and_small(patches, rng, self.params, self.backbone)

    def loss(self, views: dict[str, Tensor]) -> Step:
        with torch.no_grad():
            teacher_logits = self.teacher_head(self.teacher(views["large"]))  # (2n, K)
        features = [self.backbone(view) for view in views.values()]
        logits = self.head(torch.cat(features))  # ((2 + L) n, K)
        with torch.autocast(logits.device.type, enabled=False):
            logits, teacher_logits = parts.in_float32(logits), parts.in_float32(teacher_logits)
            if self.training:  # a validation loss must not move the center
                self._means.append(teacher_logits.mean(dim=0))
            centered = teacher_logits - self.center.to(teacher_logits)
            target = (centered / self._temperature).softmax(dim=1)
            loss = parts.dino_loss(logits, target, len(teacher_logits) // 2)
            entropy = -(target * target.clamp_min(1e-12).log()).sum(dim=1).mean()
        chance = math.log(self.params.outputs)
        return Step(loss=loss, metrics={"teacher_entropy": entropy}, chance_loss=chance)

    def before_step(self, progress: Progress) -> None:
        self._temperature = parts.warming(self.params.teacher_temperature, progress.share)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        momentum = parts.rising(self.params.momentum, progress)
        ema_update(self.teacher, self.backbone, momentum)
        ema_update(self.teacher_head, self.head, momentum)
        for mean in self._means:
            self.center.lerp_(all_gather(mean[None]).mean(dim=0).to(self.center), 1 - _CENTER_MOMENTUM)
        self._means.clear()

    def param_groups(self) -> Sequence[ParamGroup]:
        return [ParamGroup(params=(self.head.last,), frozen_until=self.params.frozen_share)]

    def encoder(self) -> nn.Module:
        return self.teacher
