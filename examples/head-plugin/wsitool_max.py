"""The head 'max': a linear layer on each patch, and of each class the surest patch of the slide."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from wsitool import FittedSlideHead, SlideBags, SlideHead, SlideSettings

__all__ = ["HEAD", "MaxPooling", "build_max", "fit_max"]

HEAD = SlideHead(
    name="max",
    about="the surest patch of each class decides",
    fit="wsitool_max:fit_max",
    build="wsitool_max:build_max",
)


class MaxPooling(nn.Module):
    """Features (n, D) to each class's highest logit (K,), and all attention on the patch that decided."""

    def __init__(self, feature_dim: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(feature_dim, classes)

    def each(self, features: Tensor) -> Tensor:
        """(n, K): what a slide of that patch alone would have."""
        return self.classify(features)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits, surest = self.each(features).max(dim=0)
        attention = torch.zeros_like(features[:, 0])
        attention[surest[logits.argmax()]] = 1
        return logits, attention


def build_max(feature_dim: int, classes: int, sizes: Mapping[str, int]) -> MaxPooling:
    """Its size follows from the features."""
    return MaxPooling(feature_dim, classes)


def fit_max(bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
    """Adam for all epochs, a step for each slide; features are brought to mean 0 and deviation 1 first."""
    rng = np.random.default_rng(seed)
    center = np.mean([bags.mean(row) for row in bags.train], axis=0)
    square = np.mean([bags.mean_square(row) for row in bags.train], axis=0)
    scale = np.sqrt(np.maximum(square - center**2, 1e-6))
    head = MaxPooling(bags.feature_dim, bags.classes)
    with torch.no_grad():
        head.classify.weight.copy_(torch.from_numpy(0.01 * rng.normal(size=head.classify.weight.shape)))
        head.classify.bias.zero_()
    optimizer = torch.optim.Adam(head.parameters(), lr=settings.head_lr or 1e-3)
    for _ in range(settings.epochs):
        for row in rng.permutation(bags.train):
            features = torch.from_numpy((bags.read(row) - center) / scale).float()
            logits, _ = head(features)
            loss = nn.functional.cross_entropy(logits[None], torch.tensor([int(bags.labels[row])]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        # Of raw features: w . (x - center) / scale + b = (w / scale) . x + (b - (w / scale) . center)
        head.classify.weight.div_(torch.from_numpy(scale).float())
        head.classify.bias.sub_(head.classify.weight @ torch.from_numpy(center).float())
    return FittedSlideHead(head=head)
