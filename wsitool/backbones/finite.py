"""Weights that are not numbers are neither written nor used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

__all__ = ["first_not_finite", "gradient_norm"]


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


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The Euclidean norm (scalar, on the device) of the parameters' gradients; NaN if one holds NaN.

    Infinite also where squares overflow, above 1e19 in float32: such gradients train nothing. Nothing waits
    for the device: reading the result does.
    """
    gradients = [each.grad for each in parameters if each.grad is not None and each.grad.numel() > 0]
    # The norm of norms, in a few fused kernels; on a CPU an eighth of what the largest magnitude costs.
    return nn.utils.get_total_norm(gradients)
