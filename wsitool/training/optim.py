"""Optimisers, what each weight is trained with, and the rates as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from wsitool.api import Method
from wsitool.backbones.encoder import Encoder
from wsitool.errors import PluginError
from wsitool.methods.registry import blame_plugin
from wsitool.training.config import PretrainConfig
from wsitool.training.depth import block_depths

__all__ = ["Lars", "hold_frozen", "learning_rate", "make_optimizer", "set_rates", "weight_decay"]


def learning_rate(config: PretrainConfig, step: int, total: int) -> float:
    """The rate of optimiser step `step` of `total`: linear warm-up to lr, then cosine to 0 or constant.

    A function of its arguments alone, so that a resumed run needs no scheduler. `step` counts from 0.
    """
    recipe = config.recipe
    warm = round(recipe.warmup * total)
    if step < warm:
        # step + 1: the very first step is not at 0.
        return recipe.lr * (step + 1) / warm
    if recipe.schedule == "constant":
        return recipe.lr
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def weight_decay(config: PretrainConfig, step: int, total: int) -> float:
    """The decay of optimiser step `step` of `total`: along a cosine to the final one, if there is one."""
    first, last = config.recipe.weight_decay, config.recipe.final_weight_decay
    return first if last is None else last + (first - last) * 0.5 * (1 + math.cos(math.pi * step / total))


def set_rates(optimizer: Optimizer, config: PretrainConfig, step: int, total: int) -> None:
    """Give every group its learning rate and weight decay of optimiser step `step` of `total`."""
    lr = learning_rate(config, step, total)
    for group in optimizer.param_groups:
        # `get`, as an optimiser loaded from an earlier build's checkpoint has none of these.
        group["lr"] = (lr if group.get("scheduled", True) else config.recipe.lr) * group.get("lr_scale", 1.0)
        if group.get("scheduled_decay"):
            group["weight_decay"] = weight_decay(config, step, total)


def hold_frozen(optimizer: Optimizer, share: float) -> None:
    """Take the gradients of groups that are frozen beyond the `share` of training done.

    Without one an optimiser neither moves a weight nor remembers anything of it.
    """
    for group in optimizer.param_groups:
        if share < group.get("frozen_until", 0.0):
            for weight in group["params"]:
                weight.grad = None


def make_optimizer(module: nn.Module, config: PretrainConfig) -> Optimizer:
    """The configured optimiser over the trainable parameters, in groups of those that are trained alike.

    Biases and the parameters of normalisation layers (all of one dimension or none) are not decayed, unless
    the method's own `param_groups` say so. PluginError for groups that are not of the method's parameters.
    """
    recipe = config.recipe
    treatments = _treatments(module, config)
    groups: dict[_Treatment, list[nn.Parameter]] = {}
    # The usual two first: older checkpoints have no others, and the run's own rate is the first one's.
    for treatment in sorted(treatments.values(), key=lambda each: each.order):
        groups.setdefault(treatment, [])
    for weight, treatment in treatments.items():
        groups[treatment].append(weight)
    listed = [treatment.group(weights, recipe.weight_decay) for treatment, weights in groups.items()]
    # One kernel for all weights. On CPUs the usual way stays, for the sake of runs that are resumed.
    fused = True if any(p.device.type == "cuda" for p in treatments) else None
    # Made when called: each takes the groups for itself.
    makers: dict[str, Callable[[], Optimizer]] = {
        "adam": lambda: Adam(listed, lr=recipe.lr, fused=fused),
        "adamw": lambda: AdamW(listed, lr=recipe.lr, fused=fused),
        "sgd": lambda: SGD(listed, lr=recipe.lr, momentum=0.9, fused=fused),
        "lars": lambda: Lars(listed, lr=recipe.lr),
    }
    return makers[recipe.optimizer]()


@dataclass(frozen=True, kw_only=True)
class _Treatment:
    """How a weight is trained; `decay` None is the run's."""

    is_vector: bool
    lr_scale: float = 1.0
    decay: float | None = None
    frozen_until: float = 0.0
    scheduled: bool = True

    @property
    def order(self) -> tuple[bool, float, bool, float, float]:
        is_special = self.decay is not None or self.frozen_until > 0 or not self.scheduled
        return (is_special, -self.lr_scale, self.is_vector, self.decay or 0.0, self.frozen_until)

    def group(self, weights: list[nn.Parameter], decay: float) -> dict[str, Any]:
        scheduled = self.decay is None and not self.is_vector
        if self.decay is not None:
            decay = self.decay
        elif self.is_vector:
            decay = 0.0
        group: dict[str, Any] = {"params": weights, "weight_decay": decay, "lr_scale": self.lr_scale}
        group |= {"scheduled_decay": scheduled, "frozen_until": self.frozen_until}
        group |= {"scheduled": self.scheduled}
        # `adapt` is for LARS alone; torch's optimisers keep keys they do not know.
        return group | ({"adapt": False} if self.is_vector else {})


def _treatments(module: nn.Module, config: PretrainConfig) -> Mapping[nn.Parameter, _Treatment]:
    """Every trainable parameter, in the order of the module, and how it is trained."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    scales = _layer_scales(module, config.recipe.layer_decay)
    treatments = {p: _Treatment(is_vector=p.ndim <= 1, lr_scale=scales.get(p, 1.0)) for p in trainable}
    if not isinstance(module, Method):
        return treatments
    with blame_plugin(config.method, "param_groups"):
        groups = list(module.param_groups())
    weights = [weight for group in groups for weight in group.params]
    if len({id(weight) for weight in weights}) < len(weights) or not treatments.keys() >= set(weights):
        raise PluginError(
            f"The method '{config.method}' must put trainable parameters of its own into param_groups, each "
            "once: its author must correct them."
        )
    for group in groups:
        for weight in group.params:
            treatments[weight] = _Treatment(
                is_vector=weight.ndim <= 1,
                lr_scale=group.lr_scale * scales.get(weight, 1.0),
                decay=group.weight_decay,
                frozen_until=group.frozen_until,
                scheduled=group.scheduled,
            )
    return treatments


def _layer_scales(module: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """The backbone's parameters with decay ** (blocks after them), as in BEiT (arXiv:2106.08254)."""
    backbone = getattr(module, "backbone", None)
    if decay == 1 or not isinstance(backbone, Encoder):
        return {}
    depths = block_depths(backbone)
    last = max(depths.values(), default=0)
    return {weight: decay ** (last - depth) for weight, depth in depths.items()}


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
