"""What the functions of a head take and give; `head_registry` says which belong to which."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from wsitool.backbones.encoder import Encoder
from wsitool.classify.penalty import PenaltySearch
from wsitool.classify.settings import Settings

__all__ = ["AdaptEncoder", "BuildHead", "FitHead", "FittedHead", "HeadData", "StartHead"]

Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class HeadData:
    """Features (N, D) float32 of the labelled subset with labels (N,) below `classes` and groups (N,).

    `train` and `held_out` index them; nothing is held out where validation is not asked for.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.integer]
    groups: NDArray[np.integer]
    classes: int
    train: Indices
    held_out: Indices


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """A head (features (B, D) to logits (B, K)) and how it came about.

    `c` is its penalty, `search` how that was chosen inside the subset; `sizes` are fields of the classifier's
    card without which `BuildHead` cannot make an empty one.
    """

    head: nn.Module
    c: float | None = None
    search: PenaltySearch | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)


class FitHead(Protocol):
    """Fits a head on frozen features."""

    def __call__(self, data: HeadData, settings: Settings, *, seed: int) -> FittedHead:
        """The head fitted on `data.train`; choices are made on `data.held_out`, never on anything else."""
        ...


class StartHead(Protocol):
    """Makes a head that is about to be trained together with the encoder."""

    def __call__(self, feature_dim: int, classes: int, *, seed: int) -> nn.Module:
        """Fresh weights that follow from `seed`; features (B, feature_dim) to logits (B, classes)."""
        ...


class AdaptEncoder(Protocol):
    """Decides what of an encoder is trained."""

    def __call__(
        self, encoder: Encoder, settings: Settings, *, seed: int
    ) -> AbstractContextManager[Mapping[str, int]]:
        """Within the block `encoder` is ready to be trained, afterwards to be saved; gives card fields."""
        ...


class BuildHead(Protocol):
    """Makes an empty head, for the weights of a file."""

    def __call__(self, feature_dim: int, classes: int, sizes: Mapping[str, int | None]) -> nn.Module:
        """A head whose tensors have the names and shapes of one that was saved with these `sizes`."""
        ...
