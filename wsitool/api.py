"""The plugin contract: all that an SSL method may import from wsitool.

A method is a class derived from `Method`, registered as an entry point of group `wsitool.methods`.
The core owns device, optimiser, precision, distribution, seeds, logging, checkpoints and resume; the method
says what views are made of a batch of patches and what the loss on them is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

from torch import Generator, Tensor, nn

from wsitool import augment
from wsitool.augment import (
    color_jitter,
    flip_rotate,
    gaussian_blur,
    hed_jitter,
    normalize,
    random_d4,
    random_grayscale,
    random_hflip,
    random_resized_crop,
    random_vflip,
    resize,
    to_float,
)
from wsitool.params import Params, hparam

__all__ = [
    "API_VERSION",
    "Method",
    "Params",
    "Step",
    "augment",
    "color_jitter",
    "flip_rotate",
    "gaussian_blur",
    "hed_jitter",
    "hparam",
    "normalize",
    "random_d4",
    "random_grayscale",
    "random_hflip",
    "random_resized_crop",
    "random_vflip",
    "resize",
    "to_float",
]

API_VERSION = 1

P = TypeVar("P", bound=Params)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one batch gives: `loss`, a scalar float32 with gradient, and scalar `metrics` to log."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, ABC, Generic[P]):
    """A self-supervised method around a backbone.

    `backbone` takes float (B, 3, H, W) in [0, 1], normalises itself and returns (B, feature_dim).
    Derive, set `params_type`, build heads in `__init__`, and implement `views` and `loss`.
    """

    api_version: ClassVar[int] = API_VERSION
    params_type: ClassVar[type[Params]]

    def __init__(self, backbone: nn.Module, feature_dim: int, params: P) -> None:
        super().__init__()
        self.backbone = backbone
        self.feature_dim = feature_dim
        self.params: P = params

    @abstractmethod
    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        """Make named views of uint8 (B, 3, H, W) `patches` on their device, with randomness from `rng` only.

        Called without gradient; must not modify `patches`.
        """

    @abstractmethod
    def loss(self, views: dict[str, Tensor]) -> Step:
        """Compute the loss on the views of one batch."""

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step with the share of training done in [0, 1]: teachers, queues."""
        return
