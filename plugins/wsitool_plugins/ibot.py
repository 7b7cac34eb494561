"""iBOT: DINO that also says of hidden tokens what the teacher sees there; DINOv2's objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import (
    Method,
    ParamGroup,
    Progress,
    Step,
    all_gather,
    ema_update,
    frozen_copy,
    hparam,
    rank,
    to_device,
)
from wsitool_plugins.dino import (
    DINO,
    DINOHead,
    DINOParams,
    dino_loss,
    in_float32,
    large_and_small,
    rising,
    warming,
)

__all__ = ["IBOT", "IBOTParams", "koleo", "masked_loss", "sinkhorn"]

_STUDENT_TEMPERATURE = 0.1
_LEAST, _MOST = 0.1, 0.5  # shares of a masked image's tokens


@dataclass(frozen=True, kw_only=True)
class IBOTParams(DINOParams):
    """What iBOT and DINOv2 add to DINO."""

    outputs: int = hparam(8192, "width of what student and teacher say", ge=2)
    masked_p: float = hparam(
        0.5, "share of large crops of which 10 to 50 % of the tokens are hidden", gt=0, le=1
    )
    patch_weight: float = hparam(1.0, "weight of the hidden tokens' loss", ge=0)
    koleo_weight: float = hparam(0.1, "weight of spreading features out (KoLeo)", ge=0)


class IBOT(Method[IBOTParams]):
    """Zhou et al. 2022, Image BERT pre-training with online tokenizer, arXiv:2111.07832.

    With Sinkhorn-Knopp in place of the center, KoLeo and heads of their own for features and tokens as in
    DINOv2 (Oquab et al. 2023, arXiv:2304.07193). Hidden tokens lie together in blots. The encoder that is
    kept is the teacher's.
    """

    params_type = IBOTParams
    images_per_patch = DINO.images_per_patch
    needs = frozenset({"tokens"})
    recipe = DINO.recipe

    def __init__(self, backbone: nn.Module, feature_dim: int, params: IBOTParams) -> None:
        super().__init__(backbone, feature_dim, params)
        width: int = backbone.token_dim  # type: ignore[assignment]  # as tokens are needed
        self.head = DINOHead(feature_dim, params.hidden_dim, params.outputs)
        self.token_head = DINOHead(width, params.hidden_dim, params.outputs)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.teacher = frozen_copy(self.backbone)
        self.teacher_heads = nn.ModuleList([frozen_copy(self.head), frozen_copy(self.token_head)])
        self._temperature = warming(params.teacher_temperature, 0.0)

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        side: int = self.backbone.patch_size  # type: ignore[assignment]
        views = large_and_small(patches, rng, self.params, self.backbone)
        number, grid = len(views["large"]), patches.shape[-1] // side
        # Coarse noise and a little fine one: what lies highest lies together.
        noise = F.interpolate(
            torch.rand((number, 1, 3, 3), generator=rng), size=(grid, grid), mode="bilinear"
        )
        order = (noise + 0.2 * torch.rand((number, 1, grid, grid), generator=rng)).flatten(1).argsort(dim=1)
        most = max(1, math.floor(_MOST * grid**2))
        share = _LEAST + (_MOST - _LEAST) * torch.rand(number, generator=rng)
        count = (share * grid**2).long().clamp(1, most)
        count = torch.where(torch.rand(number, generator=rng) < self.params.masked_p, count, 0)
        used = torch.arange(most) < count[:, None]
        # As one copy; whole numbers of this size are exact in float32.
        both = to_device(torch.cat([order[:, :most].float(), used.float()], dim=1), patches.device)
        return views | {"masked": both[:, :most].long(), "used": both[:, most:]}

    def loss(self, views: dict[str, Tensor]) -> Step:
        p, large, masked, used = self.params, views["large"], views["masked"], views["used"]
        n = len(large) // 2
        with torch.no_grad():
            features, tokens = self.teacher.tokens(large)  # type: ignore[operator]
            image_target = self.teacher_heads[0](features)  # (2n, K)
            token_target = self.teacher_heads[1](_at(tokens, masked))  # (2n, M, K)
        # Of each token whether it is hidden: (2n, h, w).
        mask = torch.zeros_like(tokens[..., 0]).flatten(1).scatter(1, masked, used.to(tokens)) > 0
        mask = mask.view(tokens.shape[:3])
        features, tokens = self.backbone.tokens(large, mask, self.mask_token)  # type: ignore[operator]
        everything = [features] + ([self.backbone(views["small"])] if "small" in views else [])
        logits = self.head(torch.cat(everything))  # ((2 + L) n, K)
        token_logits = self.token_head(_at(tokens, masked))  # (2n, M, K)
        with torch.autocast(large.device.type, enabled=False):
            image_target = sinkhorn(in_float32(image_target), self._temperature)
            token_target = in_float32(token_target)
            flat = sinkhorn(token_target.flatten(0, 1), self._temperature, used.flatten())
            terms = {
                "image_loss": dino_loss(in_float32(logits), image_target, n),
                "token_loss": masked_loss(in_float32(token_logits), flat.view_as(token_target), used),
                "koleo": torch.stack([koleo(part) for part in in_float32(features).chunk(2)]).sum(),
            }
        loss = terms["image_loss"] + p.patch_weight * terms["token_loss"] + p.koleo_weight * terms["koleo"]
        return Step(loss=loss, metrics={name: term.detach() for name, term in terms.items()})

    def before_step(self, progress: Progress) -> None:
        self._temperature = warming(self.params.teacher_temperature, progress.share)

    def after_step(self, progress: float) -> None:
        momentum = rising(self.params.momentum, progress)
        students = (self.backbone, self.head, self.token_head)
        for teacher, student in zip((self.teacher, *self.teacher_heads), students, strict=True):
            ema_update(teacher, student, momentum)

    def param_groups(self) -> Sequence[ParamGroup]:
        return [
            ParamGroup(params=(self.head.last, self.token_head.last), frozen_until=self.params.frozen_share)
        ]

    def encoder(self) -> nn.Module:
        return self.teacher


def _at(tokens: Tensor, index: Tensor) -> Tensor:
    """Of tokens (B, h, w, D) those at `index` (B, M): (B, M, D)."""
    return tokens.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


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


def masked_loss(logits: Tensor, target: Tensor, used: Tensor) -> Tensor:
    """Cross-entropy of hidden tokens (B, M, K), mean over those `used` (B, M) of an image, over images."""
    terms = -(target * (logits / _STUDENT_TEMPERATURE).log_softmax(dim=-1)).sum(dim=-1)  # (B, M)
    return ((terms * used).sum(dim=1) / used.sum(dim=1).clamp_min(1)).mean()


def koleo(features: Tensor) -> Tensor:
    """Mean of -log of each unit feature's (n, F) distance to its nearest (arXiv:1806.03198).

    Across ranks, the nearest of all.
    """
    unit = F.normalize(features, dim=1)
    everyone = all_gather(unit)  # (N, F)
    row = rank() * len(unit) + torch.arange(len(unit), device=unit.device)
    near = (unit @ everyone.T).detach().scatter(1, row[:, None], -2).argmax(dim=1)
    return -(F.pairwise_distance(unit, everyone[near], eps=1e-8) + 1e-8).log().mean()
