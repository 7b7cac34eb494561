"""The encoder: a backbone without its classifier that normalises its own input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsitool.backbones.card import EncoderCard
from wsitool.backbones.readout import features_of
from wsitool.backbones.tokens import image_tokens, token_grid

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """Float (B, 3, H, W) in [0, 1] to features (B, feature_dim).

    `trunk` is the network as its library builds it, classifier removed, so that its state dict has that
    library's own keys. Mean and standard deviation belong to the encoder: inference cannot differ from
    training. They are in the card, not in the state dict. `notes` are sentences about how the weights came
    to be in the network (normalisation, resampled positions), to be told once.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: nn.Module, card: EncoderCard, notes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.notes = notes
        self.trunk = trunk
        self.card = card
        # All features go through it and nothing changes: one hook sees those of `tokens` too.
        self.output = nn.Identity()
        # Not persistent: the state dict keeps the library's own keys, and other libraries load it strictly.
        self.register_buffer("mean", torch.tensor(card.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(card.std)[:, None, None], persistent=False)

    @property
    def name(self) -> str:
        return self.card.backbone

    @property
    def feature_dim(self) -> int:
        return self.card.feature_dim

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] -> (B, feature_dim)."""
        # (3, 1, 1) against (B, 3, H, W).
        inputs = (images - self.mean) / self.std
        features: Tensor = self.output(features_of(self.trunk, inputs, self.card.pool))
        return features

    @property
    def patch_size(self) -> int | None:
        """Pixels to the side of what a token stands for; None where there are no tokens."""
        grid = token_grid(self.trunk)
        return None if grid is None else grid[0]

    @property
    def token_dim(self) -> int | None:
        grid = token_grid(self.trunk)
        return None if grid is None else grid[1]

    def tokens(
        self,
        images: Tensor,
        mask: Tensor | None = None,
        mask_token: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features and tokens of images (B, 3, H, W): see `tokens.TokenBackbone`."""
        features, patches = image_tokens(self.trunk, (images - self.mean) / self.std, mask, mask_token, keep)
        return self.output(features), patches
