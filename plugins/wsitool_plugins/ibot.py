"""iBOT: DINO that also says of hidden tokens what the teacher sees there; DINOv2's objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from wsitool.api import Method, ParamGroup, Progress, Step, ema_update, frozen_copy, hparam, to_device
from wsitool_plugins import parts
from wsitool_plugins.dino import DINO, DINOParams

__all__ = ["IBOT", "IBOTParams"]


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
        self.head = parts.DINOHead(feature_dim, params.hidden_dim, params.outputs)
        self.token_head = parts.DINOHead(width, params.hidden_dim, params.outputs)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.teacher = frozen_copy(self.backbone)
        self.teacher_heads = nn.ModuleList([frozen_copy(self.head), frozen_copy(self.token_head)])
        self._temperature = parts.warming(params.teacher_temperature, 0.0)

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        side: int = self.backbone.patch_size  # type: ignore[assignment]
        views = parts.large_and_small(patches, rng, self.params, self.backbone)
        number, grid = len(views["large"]), patches.shape[-1] // side
        masked, used = parts.blots(number, grid, rng, share=(0.1, 0.5), p=self.params.masked_p)
        # As one copy; whole numbers of this size are exact in float32.
        both = to_device(torch.cat([masked.float(), used.float()], dim=1), patches.device)
        masked, used = both.chunk(2, dim=1)
        return views | {"masked": masked.long(), "used": used}

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
            outputs = (logits, token_logits, features, image_target, token_target)
            logits, token_logits, features, image_target, token_target = map(parts.in_float32, outputs)
            image_target = parts.sinkhorn(image_target, self._temperature)
            flat = parts.sinkhorn(token_target.flatten(0, 1), self._temperature, used.flatten())
            terms = {
                "image_loss": parts.dino_loss(logits, image_target, n),
                "token_loss": parts.masked_loss(token_logits, flat.view_as(token_target), used),
                "koleo": torch.stack([parts.koleo(view) for view in features.chunk(2)]).sum(),
            }
        loss = terms["image_loss"] + p.patch_weight * terms["token_loss"] + p.koleo_weight * terms["koleo"]
        return Step(loss=loss, metrics={name: term.detach() for name, term in terms.items()})

    def before_step(self, progress: Progress) -> None:
        self._temperature = parts.warming(self.params.teacher_temperature, progress.share)

    def after_step(self, progress: float) -> None:
        momentum = parts.rising(self.params.momentum, progress)
        students = (self.backbone, self.head, self.token_head)
        for teacher, student in zip((self.teacher, *self.teacher_heads), students, strict=True):
            ema_update(teacher, student, momentum)

    def param_groups(self) -> Sequence[ParamGroup]:
        last = (self.head.last, self.token_head.last)
        return [ParamGroup(params=last, frozen_until=self.params.frozen_share)]

    def encoder(self) -> nn.Module:
        return self.teacher


def _at(tokens: Tensor, index: Tensor) -> Tensor:
    """Of tokens (B, h, w, D) those at `index` (B, M): (B, M, D)."""
    return tokens.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
