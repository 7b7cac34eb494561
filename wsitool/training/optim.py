"""Optimisers and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from wsitool.training.config import PretrainConfig

__all__ = ["Lars", "learning_rate", "make_optimizer"]


def learning_rate(config: PretrainConfig, step: int, total: int) -> float:
    """The rate of optimiser step `step` of `total`: linear warm-up to lr, then cosine to 0 or constant.

    A function of its arguments alone, so that a resumed run needs no scheduler. `step` counts from 0.
    """
    warm = round(config.warmup * total)
    if step < warm:
        # step + 1: the very first step is not at 0.
        return config.lr * (step + 1) / warm
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def make_optimizer(module: nn.Module, config: PretrainConfig) -> Optimizer:
    """The configured optimiser over the trainable parameters.

    Biases and the parameters of normalisation layers (all of one dimension or none) are not decayed.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        # `adapt` is for LARS alone; torch's optimisers keep keys they do not know.
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0, "adapt": False},
    ]
    groups = [group for group in groups if group["params"]]
    # One kernel for all weights. On CPUs the usual way stays, for the sake of runs that are resumed.
    fused = True if any(p.device.type == "cuda" for p in trainable) else None
    # Made when called: each takes the groups for itself.
    makers: dict[str, Callable[[], Optimizer]] = {
        "adam": lambda: Adam(groups, lr=config.lr, fused=fused),
        "adamw": lambda: AdamW(groups, lr=config.lr, fused=fused),
        "sgd": lambda: SGD(groups, lr=config.lr, momentum=0.9, fused=fused),
        "lars": lambda: Lars(groups, lr=config.lr),
    }
    return makers[config.optimizer]()


class Lars(Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, arXiv:1708.03888), momentum as in SGD.

    The gradient of each tensor is scaled by trust * |w| / |g + decay w|; groups with `adapt` False (biases,
    normalisation layers) take plain momentum steps, as the papers on large batches do.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust": trust,
            "adapt": True,
        }
        super().__init__(groups, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; `closure` recomputes the loss, as torch's optimisers allow."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        # All tensors of a group in each call: a ResNet-50 has 161, and on a GPU a step would be 1,400 calls.
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        # Decay is part of the scaled gradient, not decoupled as in AdamW.
        updates = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        if group["adapt"]:
            size, slope = (torch.stack(torch._foreach_norm(part)) for part in (weights, updates))
            # Without a branch on a value, so that a GPU need not be waited for.
            # Both norms above 0, else the plain gradient: weights that begin at 0 could never leave it.
            ratio = torch.where((size > 0) & (slope > 0), group["trust"] * size / slope.clamp_min(1e-12), 1.0)
            torch._foreach_mul_(updates, ratio.unbind())
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, updates)
        torch._foreach_add_(weights, momenta, alpha=-group["lr"])
