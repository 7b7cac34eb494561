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
    """The rate of optimiser step `step` of `total`: linear warm-up to lr, then cosine to 0 or constant."""
    warm = round(config.warmup * total)
    if step < warm:
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
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0, "adapt": False},
    ]
    groups = [group for group in groups if group["params"]]
    makers: dict[str, Callable[[], Optimizer]] = {
        "adam": lambda: Adam(groups, lr=config.lr),
        "adamw": lambda: AdamW(groups, lr=config.lr),
        "sgd": lambda: SGD(groups, lr=config.lr, momentum=0.9),
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
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        update = weight.grad + group["weight_decay"] * weight
        if group["adapt"]:
            size, slope = weight.norm(), update.norm()
            # Without a branch on a value, so that a GPU need not be waited for.
            ratio = torch.where((size > 0) & (slope > 0), group["trust"] * size / slope.clamp_min(1e-12), 1.0)
            update = update * ratio
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].mul_(group["momentum"]).add_(update)
        weight.add_(state["momentum"], alpha=-group["lr"])
