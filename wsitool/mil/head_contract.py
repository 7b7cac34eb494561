"""What the functions of a head of slides take and give; `head_registry` says which belong to which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from wsitool.classify.finetune import Epoch
from wsitool.mil.bags import SlideBags
from wsitool.mil.options import SlideSettings

__all__ = ["BuildSlideHead", "FitSlideHead", "FittedSlideHead", "SlideModule"]


@dataclass(frozen=True, kw_only=True)
class FittedSlideHead:
    """A head (a `SlideModule`) and how it came about.

    `unseen` (T, K) are logits of the bags `SlideBags.train`, in that order, by heads of its kind that had not
    seen them: probabilities are calibrated by these where nothing is held out. `choices` are for run.json,
    `warning` is for the user, `history` has a row for each epoch that was judged on what is held out; `sizes`
    are what `BuildSlideHead` needs to make an empty one.

    >>> import torch
    >>> wsitool.FittedSlideHead(head=torch.nn.Linear(8, 2), choices={"epochs": 12}).choices
    {'epochs': 12}
    """

    head: nn.Module
    unseen: NDArray[np.float64] | None = None
    choices: Mapping[str, Any] = field(default_factory=dict)
    warning: str = ""
    history: Sequence[Epoch] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)


class SlideModule(Protocol):
    """What a fitted head, an `nn.Module`, is called with and gives.

    It may also have `each(features) -> (n, K)`: for every patch the logits of a bag that holds it alone.
    Without it such bags are gone through one by one.
    """

    def __call__(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (K,) and attention (n,) of one bag of features (n, D) float32, n at least 1.

        Attention is not negative, sums to 1 and follows its patch: a bag in another order has the same logits
        and the attention in that order. In evaluation mode both follow from the bag alone.
        """
        ...


class FitSlideHead(Protocol):
    """Trains a head."""

    def __call__(self, bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
        """A `SlideModule` fitted on `bags.train`; choices are made on `bags.held_out`, on nothing else.

        Any two bags may be of very different sizes, and all of them larger than memory: read one at a time.
        The same bags, settings and seed give the same head.
        """
        ...


class BuildSlideHead(Protocol):
    """Makes an empty head, for the weights of a file."""

    def __call__(self, feature_dim: int, classes: int, sizes: Mapping[str, int]) -> nn.Module:
        """A module whose tensors have the names and shapes of one that was saved with these `sizes`."""
        ...
