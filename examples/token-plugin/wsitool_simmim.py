"""SimMIM: hide parts of a patch from a transformer and paint them by one linear layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import (
    Method,
    Params,
    Recipe,
    Step,
    hparam,
    random_d4,
    random_resized_crop,
    to_device,
    to_float,
)

__all__ = ["SimMIM", "SimMIMParams", "hidden_error"]


@dataclass(frozen=True, kw_only=True)
class SimMIMParams(Params):
    """How much is hidden, and in parts of which size."""

    hidden_share: float = hparam(0.6, "share of the parts that is hidden", gt=0, lt=1)
    unit: int = hparam(2, "side of a hidden part in tokens (32 px of 16 px each)", ge=1)
    min_scale: float = hparam(0.67, "smallest share of the patch a crop keeps", gt=0, le=1)


class SimMIM(Method[SimMIMParams]):
    """Xie et al. 2022, SimMIM: a simple framework for masked image modeling, arXiv:2111.09886."""

    params_type = SimMIMParams
    images_per_patch = 1
    needs = frozenset({"tokens"})
    recipe = Recipe(optimizer="adamw", lr=1e-4, batch=256, warmup=0.1, weight_decay=0.05, clip_grad=5.0)

    def __init__(self, backbone: nn.Module, feature_dim: int, params: SimMIMParams) -> None:
        super().__init__(backbone, feature_dim, params)
        # Patch size in pixels and token width: what a backbone with tokens says of itself.
        self.side, width = int(backbone.patch_size), int(backbone.token_dim)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.pixels = nn.Linear(width, 3 * self.side**2)

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        size, p = patches.shape[-1], self.params
        crops = random_resized_crop(patches, rng, size=size, scale=(p.min_scale, 1.0))
        rows = size // self.side  # tokens to a side
        parts = -(-rows // p.unit)
        # As many parts of every patch, at least one, so that all processes hide alike.
        number = max(1, round(p.hidden_share * parts**2))
        hidden = torch.rand((len(patches), parts**2), generator=rng).argsort(dim=1) < number
        hidden = hidden.view(-1, parts, parts).repeat_interleave(p.unit, 1).repeat_interleave(p.unit, 2)
        hidden = to_device(hidden[:, :rows, :rows], patches.device)
        return {"images": to_float(random_d4(crops, rng)), "hidden": hidden}

    def loss(self, views: dict[str, Tensor]) -> Step:
        images, hidden = views["images"], views["hidden"]  # (B, 3, P, P), (B, h, w)
        _, tokens = self.backbone.tokens(images, mask=hidden, mask_token=self.mask_token)
        return Step(loss=hidden_error(self.pixels(tokens), images, hidden))


def hidden_error(painted: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
    """Mean absolute error of painted tokens (B, h, w, 3 p²), over hidden ones of a patch, over patches."""
    with torch.autocast(painted.device.type, enabled=False):
        painted = painted if painted.dtype == torch.float64 else painted.float()
        side = images.shape[-1] // hidden.shape[-1]
        truth = F.unfold(images.to(painted), side, stride=side).transpose(1, 2).view_as(painted)
        error = (painted - truth).abs().mean(dim=-1) * hidden
        return (error.sum(dim=(1, 2)) / hidden.sum(dim=(1, 2))).mean()
