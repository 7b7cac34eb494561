"""Heads of slides that break one rule each, on a head that keeps all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsitool import FittedSlideHead, SlideBags, SlideSettings


class Means(nn.Module):
    """The nearest class mean: a linear layer on the mean of a bag."""

    def __init__(self, feature_dim: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(feature_dim, classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.classify(features.mean(0)), torch.full((len(features),), 1 / len(features))


class Batched(Means):
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits, attention = super().forward(features)
        return logits[None], attention


class Scores(Means):
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(features)[0], features[:, 0]


class First(Means):
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.classify(features[0]), super().forward(features)[1]


class OtherEach(Means):
    def each(self, features: Tensor) -> Tensor:
        return self.classify(features) + 1


class Sized(Means):
    def __init__(self, feature_dim: int, classes: int) -> None:
        super().__init__(feature_dim, classes)
        self.more = nn.Linear(3, 3)


def build(feature_dim: int, classes: int, sizes: Mapping[str, int]) -> nn.Module:
    return Means(feature_dim, classes)


def _fit(bags: SlideBags, kind: type[Means] = Means, rows: Any = None) -> FittedSlideHead:
    torch.manual_seed(0)
    head = kind(bags.feature_dim, bags.classes)
    rows = bags.train if rows is None else rows
    means = [
        np.mean([bags.mean(row) for row in rows if bags.labels[row] == k], 0) for k in range(bags.classes)
    ]
    weight = torch.from_numpy(np.stack(means)).float()
    with torch.no_grad():
        head.classify.weight.copy_(2 * weight)
        head.classify.bias.copy_(-weight.square().sum(1))
    return FittedSlideHead(head=head)


def fit_nothing(bags: SlideBags, settings: SlideSettings, *, seed: int) -> None:
    return None


def fit_batched(bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
    return _fit(bags, Batched)


def fit_scores(bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
    return _fit(bags, Scores)


def fit_first(bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
    return _fit(bags, First)


def fit_other_each(bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
    return _fit(bags, OtherEach)


def fit_at_random(bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
    fitted = _fit(bags)
    with torch.no_grad():
        fitted.head.classify.bias.add_(float(np.random.rand()))  # noqa: NPY002
    return fitted


def fit_unsized(bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
    return _fit(bags, Sized)


def fit_everything(bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
    return _fit(bags, rows=np.arange(len(bags)))


def fit_in_place(bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
    fitted = _fit(bags)
    features = bags.read(int(bags.train[0]))
    features -= features.mean(0)
    return fitted


def fit_untrained(bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
    torch.manual_seed(seed)
    return FittedSlideHead(head=Means(bags.feature_dim, bags.classes))
