"""Batch norm over the batch of all ranks, on any device.

torch's own SyncBatchNorm needs a GPU, where it is used; this one runs wherever the ranks can talk, so that
distributed training is the same mathematics on the machines where it is tested.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wsitool.api import all_gather, world_size

__all__ = ["RankBatchNorm", "synchronise"]

_CPU = torch.device("cpu")


class RankBatchNorm(_BatchNorm):
    """`nn.BatchNorm1d`/`2d` whose statistics are those of all ranks' rows together; same state dict.

    Statistics are computed in float32 at least; gradients flow through them to all ranks. In evaluation mode,
    or with one rank, it is torch's own.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"Batch norm needs at least 2 dimensions, got {input.ndim}.")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        # Sums in float32 even where activations are float16.
        values = input if input.dtype == torch.float64 else input.float()
        # Over the batch and all places, per channel: (B, C, ...) to (C,).
        dims = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        # Values per channel on this rank.
        count_here = values.numel() / values.shape[1]
        count = float(_sum_over_ranks(values.new_tensor([count_here])))
        # Differentiable: the gather's backward sums over ranks, so gradients are those of one large batch.
        mean = _sum_over_ranks(values.sum(dims)) / count
        # Two passes: E[x^2] - E[x]^2 would lose in float32 what the ranks are to agree on.
        centerd = values - mean.view(shape)
        variance = _sum_over_ranks(centerd.square().sum(dims)) / count
        # Unbiased for the running variance, biased for normalising: as torch does it.
        self._track(mean, variance * count / max(count - 1, 1))
        normal = centerd * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            # Layers without running statistics.
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # Momentum None is torch's cumulative mean.
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def _sum_over_ranks(local: Tensor) -> Tensor:
    return all_gather(local[None]).sum(dim=0)


def synchronise(module: nn.Module, device: torch.device = _CPU) -> None:
    """Replace every batch norm inside `module` (not `module` itself) by one over all ranks, weights kept.

    On CUDA torch's own, which is a few kernels and does not wait for the host. In place; call it before the
    optimiser is made, as parameters are new objects.
    """
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]  # torch's, unannotated
        return
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            setattr(module, name, _replacement(child))
        else:
            synchronise(child)


def _replacement(norm: _BatchNorm) -> _BatchNorm:
    new = RankBatchNorm(
        norm.num_features,
        eps=norm.eps,
        momentum=norm.momentum,
        affine=norm.affine,
        track_running_stats=norm.track_running_stats,
    )
    # A norm without parameters or statistics has no state and no device.
    example = next(iter(norm.state_dict().values()), None)
    if example is not None:
        new.to(example)  # its device and dtype
    new.load_state_dict(norm.state_dict())
    # Frozen layers stay frozen.
    for (_, fresh), (_, old) in zip(new.named_parameters(), norm.named_parameters(), strict=True):
        fresh.requires_grad_(old.requires_grad)
    return new.train(norm.training)
