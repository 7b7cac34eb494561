"""The encoder: a backbone without its classifier that normalises its own input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsitool.backbones.card import EncoderCard

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """Float (B, 3, H, W) in [0, 1] to features (B, feature_dim).

    `trunk` is the network as its library builds it, classifier removed, so that its state dict has that
    library's own keys. Mean and standard deviation belong to the encoder: inference cannot differ from
    training. They are in the card, not in the state dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: nn.Module, card: EncoderCard) -> None:
        super().__init__()
        self.trunk = trunk
        self.card = card
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
        features: Tensor = self.trunk((images - self.mean) / self.std)
        return features
