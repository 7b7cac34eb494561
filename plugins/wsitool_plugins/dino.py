"""DINO: small crops of a patch are to say what a slow teacher says of large ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import (
    Crop,
    Method,
    ParamGroup,
    Progress,
    Recipe,
    Step,
    ViewParams,
    all_gather,
    crops,
    ema_update,
    frozen_copy,
    hparam,
)

__all__ = [
    "DINO",
    "DINOHead",
    "DINOParams",
    "dino_loss",
    "in_float32",
    "large_and_small",
    "rising",
    "warming",
]

_CENTER_MOMENTUM = 0.9
_STUDENT_TEMPERATURE = 0.1
_WARM_TEMPERATURE, _WARM_SHARE = 0.04, 0.3  # of the teacher, as the paper's 30 epochs


@dataclass(frozen=True, kw_only=True)
class DINOParams(ViewParams):
    """DINO's crops, head and teacher; colours are BYOL's."""

    presets = {"histology": {**ViewParams.presets["histology"], "min_scale": 0.4}}

    min_scale: float = hparam(
        0.4, "smallest share of the patch a large crop keeps, a small one's largest", gt=0.05, le=1
    )
    strength: float = hparam(0.5, "strength s of the colour jitter (.8s, .8s, saturation*s, .2s)", ge=0, le=1)
    saturation: float = hparam(0.4, "saturation jitter at strength 1", ge=0, le=1)
    blur_p: float = hparam(1.0, "share of first views that are blurred", ge=0, le=1)
    blur_p_second: float | None = hparam(0.1, "share of second views that are blurred", ge=0, le=1)
    solarize_p: float = hparam(0.2, "share of second views whose bright half is inverted", ge=0, le=1)
    local_crops: int = hparam(8, "small crops of a patch, beside two large ones", ge=0)
    local_size: int | None = hparam(
        None, "side of small crops (3/7 of the patch, in whole tokens)", ge=8, unit="px"
    )
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
        self.head = DINOHead(feature_dim, params.hidden_dim, params.outputs)
        self.teacher, self.teacher_head = frozen_copy(self.backbone), frozen_copy(self.head)
        self.register_buffer("center", torch.zeros(params.outputs))
        self._temperature = warming(params.teacher_temperature, 0.0)
        # Not a buffer: means wait for the optimiser step that they belong to.
        self._means: list[Tensor] = []

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        return large_and_small(patches, rng, self.params, self.backbone)

    def loss(self, views: dict[str, Tensor]) -> Step:
        with torch.no_grad():
            teacher_logits = self.teacher_head(self.teacher(views["large"]))  # (2n, K)
        features = [self.backbone(view) for view in views.values()]
        logits = self.head(torch.cat(features))  # ((2 + L) n, K)
        with torch.autocast(logits.device.type, enabled=False):
            logits, teacher_logits = in_float32(logits), in_float32(teacher_logits)
            if self.training:  # a validation loss must not move the center
                self._means.append(teacher_logits.mean(dim=0))
            target = ((teacher_logits - self.center.to(teacher_logits.dtype)) / self._temperature).softmax(
                dim=1
            )
            loss = dino_loss(logits, target, len(teacher_logits) // 2)
            entropy = -(target * target.clamp_min(1e-12).log()).sum(dim=1).mean()
        return Step(
            loss=loss, metrics={"teacher_entropy": entropy}, chance_loss=math.log(self.params.outputs)
        )

    def before_step(self, progress: Progress) -> None:
        self._temperature = warming(self.params.teacher_temperature, progress.share)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        momentum = rising(self.params.momentum, progress)
        ema_update(self.teacher, self.backbone, momentum)
        ema_update(self.teacher_head, self.head, momentum)
        for mean in self._means:
            self.center.lerp_(all_gather(mean[None]).mean(dim=0).to(self.center), 1 - _CENTER_MOMENTUM)
        self._means.clear()

    def param_groups(self) -> Sequence[ParamGroup]:
        return [ParamGroup(params=(self.head.last,), frozen_until=self.params.frozen_share)]

    def encoder(self) -> nn.Module:
        return self.teacher


class DINOHead(nn.Module):
    """Features (..., F) to (..., outputs): three layers, a unit vector, cosines with unit weights (C)."""

    def __init__(self, feature_dim: int, hidden: int, outputs: int, bottleneck: int = 256) -> None:
        super().__init__()
        widths = ((feature_dim, hidden), (hidden, hidden), (hidden, bottleneck))
        layers = [layer for a, b in widths for layer in (nn.Linear(a, b), nn.GELU())]
        self.layers = nn.Sequential(*layers[:-1])
        self.last = nn.Parameter(torch.randn(outputs, bottleneck))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize(self.layers(features), dim=-1), F.normalize(self.last, dim=1))


def large_and_small(
    patches: Tensor, rng: Generator, params: DINOParams, backbone: nn.Module
) -> dict[str, Tensor]:
    """Views "large" (2 B, 3, P, P) and, unless there are none, "small" (L * B, 3, S, S)."""
    scale, token = (params.min_scale, 1.0), getattr(backbone, "patch_size", None) or 1
    size = params.local_size or max(1, round(patches.shape[-1] * 3 / 7 / token)) * token
    second = Crop(scale=scale, blur_p=params.blur_p_second, solarize_p=params.solarize_p)
    kinds = [Crop(scale=scale), second]
    if params.local_crops:
        kinds.append(Crop(count=params.local_crops, size=size, scale=(0.05, params.min_scale), blur_p=0.5))
    first, second_large, *small_crops = crops(patches, rng, kinds, params)
    return {"large": torch.cat([first, second_large])} | ({"small": small_crops[0]} if small_crops else {})


def in_float32(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values if values.dtype == torch.float64 else values.float()


def dino_loss(logits: Tensor, target: Tensor, n: int) -> Tensor:
    """Cross-entropy of each crop of n patches with each large one but itself, mean over pairs (equation 3).

    `logits` (V n, K) by the student, crop by crop and the large ones first, `target` (T n, K) of sum 1.
    """
    logits = (logits / _STUDENT_TEMPERATURE).log_softmax(dim=1).view(-1, n, logits.shape[1])
    terms = -torch.einsum("tnk,vnk->tv", target.view(-1, n, target.shape[1]), logits) / n  # (T, V)
    return (terms.sum() - terms.diagonal().sum()) / (terms.numel() - min(terms.shape))


def warming(temperature: float, share: float) -> float:
    """The teacher's temperature at a share of training: in a line from the paper's first one."""
    return _WARM_TEMPERATURE + min(1.0, share / _WARM_SHARE) * (temperature - _WARM_TEMPERATURE)


def rising(momentum: float, progress: float) -> float:
    """From `momentum` to 1 along half a cosine."""
    return 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2
