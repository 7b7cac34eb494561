"""The plugin contract: all that an SSL method may import from wsitool.

A method is a class derived from `Method`, registered as an entry point of group `wsitool.methods`.
The core owns device, optimiser, precision, distribution, seeds, logging, checkpoints and resume; the method
says what views are made of a batch of patches and what the loss on them is.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn

from wsitool.augment import (
    Crop,
    ViewParams,
    color_jitter,
    crops,
    gaussian_blur,
    hed_jitter,
    in_pieces,
    normalize,
    random_d4,
    random_grayscale,
    random_hflip,
    random_resized_crop,
    random_vflip,
    resize,
    solarize,
    to_device,
    to_float,
    two_views,
)
from wsitool.base.parameters import Params, hparam
from wsitool.base.recipe import Recipe

__all__ = [
    "API_VERSION",
    "NEEDS",
    "Crop",
    "Meta",
    "Method",
    "ParamGroup",
    "Params",
    "Progress",
    "Recipe",
    "Step",
    "ViewParams",
    "all_gather",
    "color_jitter",
    "crops",
    "ema_update",
    "frozen_copy",
    "gaussian_blur",
    "hed_jitter",
    "hparam",
    "in_pieces",
    "normalize",
    "random_d4",
    "random_grayscale",
    "random_hflip",
    "random_resized_crop",
    "random_vflip",
    "rank",
    "resize",
    "solarize",
    "to_device",
    "to_float",
    "two_views",
    "world_size",
]

# Plugins made for another number are refused; optional members may be added without a new one.
API_VERSION = 1
# What a method may ask of stores and backbone; a run in which it cannot be had is refused before it begins.
NEEDS = frozenset({"tokens", "labels", "coords", "pairs"})

P = TypeVar("P", bound=Params)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one batch gives: `loss`, a scalar float32 with gradient, and scalar `metrics` to log.

    `chance_loss` is what the loss would be for guessing, where the method can say: curves show it, and a run
    that learns nothing is told from it.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    chance_loss: Tensor | float | None = None

    def __post_init__(self) -> None:
        if self.chance_loss is not None:
            # A number stays on the CPU: to put it on a GPU is to wait for that.
            chance = torch.as_tensor(self.chance_loss, dtype=torch.float32)
            # Logged beside the metrics; methods of before gave it as one of them.
            # Frozen: this is its one way in.
            object.__setattr__(self, "metrics", self.metrics | {"chance_loss": chance})


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What is known of a batch of patches, (B,) each and on the CPU, where the generator is.

    `indices` int64 into the collection, `labels` int64 into its classes (-1 = unlabelled), `store` and
    `group` (the patient) int64 numbers, `coords` (B, 2) int64 level-0 x, y of the top left pixel, `mpp`
    float32 um/px (NaN where a store states none). `pairs`, for methods that need "pairs", are patches like
    those of the batch and on their device: for each one that lies beside it, itself where none does.
    """

    indices: Tensor
    labels: Tensor
    store: Tensor
    group: Tensor
    coords: Tensor
    mpp: Tensor
    pairs: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where training stands before optimiser step `step` of `steps`, both counted from 0.

    `epoch` counts from 0, `share` is the part of training done in [0, 1), `lr` the step's learning rate.
    """

    step: int
    steps: int
    epoch: int
    share: float
    lr: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ParamGroup:
    """Parameters that are trained in their own way.

    Their rate is `lr_scale` times the run's (its highest throughout where not `scheduled`), their decay
    `weight_decay` (None: the run's, and none for biases and norms), and they stay as they are until the share
    `frozen_until` of training is done. ValueError for values that cannot be.
    """

    params: tuple[nn.Parameter, ...]
    lr_scale: float = 1.0
    weight_decay: float | None = None
    frozen_until: float = 0.0
    scheduled: bool = True

    def __post_init__(self) -> None:
        if not (self.lr_scale > 0 and (self.weight_decay or 0) >= 0 and 0 <= self.frozen_until < 1):
            raise ValueError(
                "A ParamGroup needs lr_scale above 0, weight_decay of at least 0 and frozen_until in [0, 1), "
                f"got {self.lr_scale}, {self.weight_decay} and {self.frozen_until}."
            )


class Method(nn.Module, ABC, Generic[P]):
    """A self-supervised method around a backbone.

    `backbone` takes float (B, 3, H, W) in [0, 1], normalises itself and returns (B, feature_dim). Derive, set
    `params_type`, build heads in `__init__`, and implement `views` and `loss`.

    Optional, for what the engine says of a run: `uses_batch_negatives`, that a small batch makes the task too
    easy; `images_per_patch`, how many images of a patch the backbone sees in a step; `memory_size`, of how
    many earlier patches negatives are kept; `shortcut_metric`, a metric that is near 1 only where the task is
    solved by a shortcut. Optional, for what it does: `recipe`, `before_step`, `after_step`, `param_groups`,
    `encoder`, and `needs`, any of
    "tokens": `backbone.tokens(images, mask=None, mask_token=None, keep=None)` gives (cls (B, F), patches
    (B, h, w, D)), with `backbone.patch_size` (px) and `backbone.token_dim` (D); see
    `wsitool.backbones.tokens.TokenBackbone`;
    "labels": patches of at least two classes are labelled; "coords"; "pairs": see `Meta`.
    """

    api_version: ClassVar[int] = API_VERSION
    uses_batch_negatives: ClassVar[bool] = False
    # How many images of a patch go through the backbone in a step; two views by default.
    images_per_patch: ClassVar[int] = 2
    shortcut_metric: ClassVar[str | None] = None
    # How it is trained where the user does not say: the paper's, or else the study's.
    recipe: ClassVar[Recipe] = Recipe()
    needs: ClassVar[frozenset[str]] = frozenset()
    memory_size: int = 0
    params_type: ClassVar[type[Params]]

    def __init__(self, backbone: nn.Module, feature_dim: int, params: P) -> None:
        super().__init__()
        self.backbone = backbone
        self.feature_dim = feature_dim
        self.params: P = params

    @abstractmethod
    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        """Make named views of uint8 (B, 3, H, W) `patches` on their device, with randomness from `rng` only.

        Called without gradient; must not modify `patches`. `rng` lives on the CPU whatever the device is. On
        a GPU views are made while the step before is running: they must not look at what that changes. A
        method that declares a third argument named `meta` is given the batch's `Meta`; what the loss needs of
        it goes into the views, by `to_device`, which waits for nothing.
        """

    @abstractmethod
    def loss(self, views: dict[str, Tensor]) -> Step:
        """Compute the loss on the views of one batch."""

    def before_step(self, progress: Progress) -> None:
        """Called before the views of each optimiser step: temperatures and other schedules.

        What it sets must follow from `progress`, as no checkpoint holds it.
        """
        return

    def param_groups(self) -> Sequence[ParamGroup]:
        """Parameters that are not trained as the rest is, each in one group."""
        return ()

    def encoder(self) -> nn.Module:
        """What is exported, probed and watched for collapse: the backbone, or a `frozen_copy` of it."""
        return self.backbone

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step with the share of training done in [0, 1]: teachers, queues.

        Gradients are off. Ranks call it together, so that gathering is allowed; state belongs in parameters
        and registered buffers, which checkpoints hold.
        """
        # Not abstract: most methods have nothing to do here.
        return


def frozen_copy(student: nn.Module) -> nn.Module:
    """A copy of `student` without gradients: the start of a momentum teacher.

    Buffers are copied as well, and batch norm stays in the mode of `student`. Registered as a submodule it is
    in the method's state dict, so that resuming restores it.
    """
    # Deep: a shared tensor would be trained by the student's optimiser.
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Set each parameter of `teacher` to momentum * itself + (1 - momentum) * the student's.

    Buffers are left alone: a teacher in training mode keeps its own batch-norm statistics.
    """
    # strict: a teacher of another shape would be averaged with the wrong weights.
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.lerp_(fast, 1 - momentum)


def world_size() -> int:
    """How many processes train together; 1 where training is not distributed."""
    # Both questions: torch may be built without distribution, and not every run has a group.
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among `world_size()`."""
    return dist.get_rank() if world_size() > 1 else 0


def all_gather(local: Tensor) -> Tensor:
    """Concatenate `local` (n, ...) of all ranks, in rank order, as (world_size * n, ...).

    n must be the same on every rank. Gradient flows back to every rank's part, summed over the ranks, so that
    the mean over ranks of a loss on gathered tensors has the gradients of one process with the whole batch.
    """
    # Without a group no copy is made.
    return local if world_size() == 1 else _gather(local)


def _gather(local: Tensor) -> Tensor:
    gathered: Tensor = _AllGather.apply(local)
    return gathered


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        # gloo and NCCL fill tensors of equal size, hence the same n everywhere.
        parts = [torch.empty_like(local) for _ in range(world_size())]
        # Contiguous, as slices of a batch may not be.
        dist.all_gather(parts, local.contiguous())
        ctx.rows = len(local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Each rank has a gradient for everybody's part; summed, each takes its own.
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]
