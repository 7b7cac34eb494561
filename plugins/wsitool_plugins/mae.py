"""MAE: a transformer sees a quarter of a patch, and a small one paints the rest."""

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
    random_hflip,
    random_resized_crop,
    to_device,
    to_float,
)

__all__ = ["MAE", "MAEParams", "painting_error", "pixels_of_tokens", "positions"]


@dataclass(frozen=True, kw_only=True)
class MAEParams(Params):
    """How much is hidden, and the decoder's size."""

    presets = {"histology": {"d4": True}}

    hidden_share: float = hparam(0.75, "share of the tokens that is hidden", gt=0, lt=1)
    min_scale: float = hparam(0.2, "smallest share of the patch a crop keeps", gt=0, le=1)
    d4: bool = hparam(False, "flip and turn by all eight symmetries, not left-right only")
    decoder_dim: int = hparam(512, "width of the decoder", ge=4)
    decoder_depth: int = hparam(8, "blocks of the decoder", ge=1)
    decoder_heads: int = hparam(16, "heads of the decoder, of which the width is a multiple", ge=1)


class MAE(Method[MAEParams]):
    """He et al. 2022, Masked autoencoders are scalable vision learners, arXiv:2111.06377.

    Targets are the pixels of each token less their mean, over their deviation, so that guessing costs 1. The
    features go to the decoder beside the tokens, as the authors' class token does: they are what is exported.
    """

    params_type = MAEParams
    images_per_patch = 1
    needs = frozenset({"tokens"})
    recipe = Recipe(optimizer="adamw", lr=1.5e-4, batch=256, warmup=0.05, weight_decay=0.05)

    def __init__(self, backbone: nn.Module, feature_dim: int, params: MAEParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.side: int = backbone.patch_size  # type: ignore[assignment]  # as tokens are needed
        width = params.decoder_dim
        self.enter_features = nn.Linear(feature_dim, width)
        self.enter_tokens = nn.Linear(backbone.token_dim, width)  # type: ignore[arg-type]
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, params.decoder_heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerEncoder(
            layer, params.decoder_depth, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.pixels = nn.Linear(width, 3 * self.side**2)

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        size, p = patches.shape[-1], self.params
        images = random_resized_crop(patches, rng, size=size, scale=(p.min_scale, 1.0))
        images = to_float(random_d4(images, rng) if p.d4 else random_hflip(images, rng))
        order = torch.rand((len(patches), (size // self.side) ** 2), generator=rng).argsort(dim=1)
        return {"images": images, "order": to_device(order, patches.device)}

    def loss(self, views: dict[str, Tensor]) -> Step:
        images, order = views["images"], views["order"]  # (B, 3, P, P), (B, N)
        number = order.shape[1]
        # At least one token seen, and one hidden.
        seen = min(max(round((1 - self.params.hidden_share) * number), 1), number - 1)
        keep, hidden = order[:, :seen], order[:, seen:]
        features, tokens = self.backbone.tokens(images, keep=keep)  # type: ignore[operator]
        tokens = self.enter_tokens(tokens)  # (B, K, W)
        everything = self.mask_token.to(tokens).expand(len(images), number, -1)
        everything = everything.scatter(1, keep[..., None].expand_as(tokens), tokens)
        places = positions(images.shape[-2] // self.side, images.shape[-1] // self.side, tokens)
        first = self.enter_features(features).to(tokens.dtype)[:, None]
        decoded = self.decoder(torch.cat([first, everything + places], dim=1))[:, 1:]
        painted = self.pixels(decoded.gather(1, hidden[..., None].expand(-1, -1, decoded.shape[-1])))
        error, guess = painting_error(painted, images, hidden, self.side)
        return Step(loss=error, chance_loss=guess)


def positions(rows: int, columns: int, like: Tensor) -> Tensor:
    """Sines and cosines (rows * columns, W) of a token's column, then of its row (as the authors' code)."""
    width = like.shape[-1] // 4
    rates = 10000 ** -(torch.arange(width, device=like.device) / width)
    y, x = (torch.arange(size, device=like.device)[:, None] * rates for size in (rows, columns))
    down, across = y.repeat_interleave(columns, dim=0), x.repeat(rows, 1)
    waves = torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], dim=1)
    return F.pad(waves, (0, like.shape[-1] - 4 * width)).to(like.dtype)


def pixels_of_tokens(images: Tensor, side: int) -> Tensor:
    """The pixels (B, N, 3 side²) of the tokens of images (B, 3, H, W), row by row."""
    return F.unfold(images, side, stride=side).transpose(1, 2)


def painting_error(painted: Tensor, images: Tensor, hidden: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Mean squared error of `painted` (B, M, 3 side²) at the tokens `hidden` (B, M), and that of guessing.

    The truth are their pixels less their mean, over their standard deviation, token by token.
    """
    with torch.autocast(painted.device.type, enabled=False):
        painted = painted if painted.dtype == torch.float64 else painted.float()
        truth = pixels_of_tokens(images.to(painted.dtype), side)
        truth = truth.gather(1, hidden[..., None].expand(-1, -1, truth.shape[-1]))
        spread = (truth.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        truth = (truth - truth.mean(dim=-1, keepdim=True)) / spread
        return F.mse_loss(painted, truth), truth.square().mean()
