"""Weights that are not numbers are neither written nor used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

__all__ = ["first_not_finite", "largest_gradient"]


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or an infinity; waits for the device once.

    In the mapping's order. Integer and empty tensors, and values that are no tensors, are left out; tensors
    may be on several devices.
    """
    floats = {
        name: value.detach()
        for name, value in tensors.items()
        # Integers, such as batch norm's counters, cannot be anything but finite; norms of nothing raise.
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0
    }
    if not floats:
        return None
    # The largest magnitude: it keeps NaN, cannot overflow as a sum can, and needs no tensor of booleans.
    good = [torch.linalg.vector_norm(value, ord=float("inf")).isfinite() for value in floats.values()]
    # One tensor, one wait, whatever the number of weights.
    answers = torch.stack([each.to(good[0].device) for each in good]).tolist()
    return next((name for name, is_good in zip(floats, answers, strict=True) if not is_good), None)


def largest_gradient(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The largest magnitude (scalar, on the device) in the parameters' gradients; NaN if one holds NaN.

    Nothing waits for the device: reading the result does.
    """
    gradients = [each.grad for each in parameters if each.grad is not None and each.grad.numel() > 0]
    # The norm of norms over all gradients, in a few fused kernels.
    return nn.utils.get_total_norm(gradients, norm_type=float("inf"))
