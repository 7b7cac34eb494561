"""What several methods are made of: views, heads, teachers' schedules and targets, terms of losses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import Crop, ViewParams, all_gather, crops, hparam, rank

__all__ = [
    "BYOLViewParams",
    "DINOHead",
    "MultiCropParams",
    "blots",
    "dino_loss",
    "in_float32",
    "koleo",
    "large_and_small",
    "masked_loss",
    "rising",
    "sinkhorn",
    "warming",
]

_STUDENT_TEMPERATURE = 0.1
_WARM_TEMPERATURE, _WARM_SHARE = 0.04, 0.3  # of the teacher, as the paper's 30 epochs


@dataclass(frozen=True, kw_only=True)
class BYOLViewParams(ViewParams):
    """BYOL's colours, different for the two views (appendix B of arXiv:2006.07733)."""

    strength: float = hparam(0.5, "strength s of the colour jitter (.8s, .8s, saturation*s, .2s)", ge=0, le=1)
    saturation: float = hparam(0.4, "saturation jitter at strength 1", ge=0, le=1)
    blur_p: float = hparam(1.0, "share of first views that are blurred", ge=0, le=1)
    blur_p_second: float | None = hparam(0.1, "share of second views that are blurred", ge=0, le=1)
    solarize_p: float = hparam(0.2, "share of second views whose bright half is inverted", ge=0, le=1)


@dataclass(frozen=True, kw_only=True)
class MultiCropParams(BYOLViewParams):
    """Two large crops of a patch and small ones, as DINO's."""

    presets = {"histology": {**ViewParams.presets["histology"], "min_scale": 0.4}}

    min_scale: float = hparam(
        0.4, "smallest share of the patch a large crop keeps, a small one's largest", gt=0.05, le=1
    )
    local_crops: int = hparam(8, "small crops of a patch, beside two large ones", ge=0)
    local_size: int | None = hparam(
        None, "side of small crops (3/7 of the patch, in whole tokens)", ge=8, unit="px"
    )


def large_and_small(
    patches: Tensor, rng: Generator, params: MultiCropParams, backbone: nn.Module
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


def blots(
    number: int, grid: int, rng: Generator, *, share: tuple[float, float], p: float
) -> tuple[Tensor, Tensor]:
    """Which tokens of images of grid x grid are hidden: a `share` of those of a part `p` of the images.

    Positions (number, M) int64, and whether they are used (number, M), on the CPU. They lie together.
    """
    least, most = share[0], max(1, math.floor(share[1] * grid**2))
    # Coarse noise and a little fine one: what lies highest lies together.
    noise = F.interpolate(torch.rand((number, 1, 3, 3), generator=rng), size=(grid, grid), mode="bilinear")
    order = (noise + 0.2 * torch.rand((number, 1, grid, grid), generator=rng)).flatten(1).argsort(dim=1)
    shares = least + (share[1] - least) * torch.rand(number, generator=rng)
    count = (shares * grid**2).long().clamp(1, most)
    count = torch.where(torch.rand(number, generator=rng) < p, count, 0)
    return order[:, :most], torch.arange(most) < count[:, None]


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


def in_float32(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values if values.dtype == torch.float64 else values.float()


def warming(temperature: float, share: float) -> float:
    """The teacher's temperature at a share of training: in a line from the paper's first one."""
    return _WARM_TEMPERATURE + min(1.0, share / _WARM_SHARE) * (temperature - _WARM_TEMPERATURE)


def rising(momentum: float, progress: float) -> float:
    """From `momentum` to 1 along half a cosine."""
    return 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2


def dino_loss(logits: Tensor, target: Tensor, n: int) -> Tensor:
    """Cross-entropy of each crop of n patches with each large one but itself, mean over pairs (equation 3).

    `logits` (V n, K) by the student, crop by crop and the large ones first, `target` (T n, K) of sum 1.
    """
    logits = (logits / _STUDENT_TEMPERATURE).log_softmax(dim=1).view(-1, n, logits.shape[1])
    terms = -torch.einsum("tnk,vnk->tv", target.view(-1, n, target.shape[1]), logits) / n  # (T, V)
    return (terms.sum() - terms.diagonal().sum()) / (terms.numel() - min(terms.shape))


def masked_loss(logits: Tensor, target: Tensor, used: Tensor) -> Tensor:
    """Cross-entropy of hidden tokens (B, M, K), mean over those `used` (B, M) of an image, over images."""
    terms = -(target * (logits / _STUDENT_TEMPERATURE).log_softmax(dim=-1)).sum(dim=-1)  # (B, M)
    return ((terms * used).sum(dim=1) / used.sum(dim=1).clamp_min(1)).mean()


@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float, used: Tensor | None = None) -> Tensor:
    """Targets (n, K) of sum 1 that use all K alike, of `scores` (n, K) (Caron et al. 2020, arXiv:2006.09882).

    Three rounds, over the samples of all ranks; where `used` (n,) is 0 a sample does not count.
    """
    everyone = all_gather(scores) / temperature
    shares = (everyone - everyone.max()).exp()
    if used is not None:
        shares = shares * all_gather(used)[:, None].to(shares)
    for _ in range(3):
        shares = shares / shares.sum(dim=0, keepdim=True).clamp_min(1e-30)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-30)
    return shares[rank() * len(scores) : (rank() + 1) * len(scores)]


def koleo(features: Tensor) -> Tensor:
    """Mean of -log of each unit feature's (n, F) distance to its nearest (arXiv:1806.03198).

    Across ranks, the nearest of all.
    """
    unit = F.normalize(features, dim=1)
    everyone = all_gather(unit)  # (N, F)
    row = rank() * len(unit) + torch.arange(len(unit), device=unit.device)
    near = (unit @ everyone.T).detach().scatter(1, row[:, None], -2).argmax(dim=1)
    return -(F.pairwise_distance(unit, everyone[near], eps=1e-8) + 1e-8).log().mean()
