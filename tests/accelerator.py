"""A stand-in for an accelerator: torch's meta device, whose tensors have no values that could be read.

It fails where a GPU would: where tensors of two devices meet in one operation, where CUDA has no kernel for a
dtype, and where the host asks for a value. And it counts kernels and copies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from wsitool.training.operations import Operations

__all__ = ["DEVICE", "Accelerator", "accelerator"]

DEVICE = torch.device("meta")

# Operations with dtypes that a CPU has and CUDA has not: aten/src/ATen/native/cuda, UpSampleBilinear2d.cu and
# kin (AT_DISPATCH_FLOATING_TYPES...), Blas.cpp (no integer gemm), Convolution (cuDNN: floating types only).
_FLOATS_ONLY = frozenset(
    ("_upsample_bilinear2d_aa", "upsample_bilinear2d", "bmm", "baddbmm", "mm", "addmm", "convolution")
)
_COPIES = frozenset(("_to_copy", "copy_"))


class Accelerator(Operations):
    """Counts what the device is asked to do; AssertionError for what it could not do."""

    def __init__(self) -> None:
        super().__init__(DEVICE)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        # A number of the CPU may stand in any operation of a device.
        devices = {x.device.type for x in tensors if x.ndim or x.device.type != "cpu"}
        assert name in _COPIES or len(devices) < 2, f"{name} of tensors on {sorted(devices)}"
        assert not (DEVICE.type in devices and name in _FLOATS_ONLY) or all(
            x.is_floating_point() for x in tensors
        ), f"{name} of {[x.dtype for x in tensors]}"
        return super().__torch_dispatch__(func, types, args, kwargs)


@contextlib.contextmanager
def accelerator(device: Accelerator | None = None) -> Iterator[Accelerator]:
    """Run the block on the stand-in; networks and tensors on `DEVICE` are its own."""
    autocast = torch.autocast

    def without_meta(device_type: str, *args: Any, **kwargs: Any) -> Any:
        # torch knows no mixed precision of the meta device
        return (
            contextlib.nullcontext() if device_type == DEVICE.type else autocast(device_type, *args, **kwargs)
        )

    with pytest.MonkeyPatch.context() as patch, device or Accelerator() as counted:
        patch.setattr(torch, "autocast", without_meta)
        yield counted
