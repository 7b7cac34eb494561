"""A second device with values: tensors that say they are on the stand-in and keep their content on the CPU.

What `accelerator` refuses is refused here too; beyond that a whole run can be carried out, as losses have
values and what is read from the device is read.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerator import DEVICE, Accelerator, accelerator
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["OnDevice", "ValueDevice", "on_cpu", "value_device"]


class OnDevice(Tensor):
    """A tensor of the device; `content` is it on the CPU."""

    content: Tensor

    @staticmethod
    def __new__(cls, content: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            content.shape,
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device=DEVICE,
        )
        made.content = content
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.content!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carry_out(func, args, kwargs or {})


def on_cpu(values: Any) -> Any:
    """The same with each tensor's content."""
    return tree_map_only(OnDevice, lambda each: each.content, values)


def _carry_out(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU; the result is on the device where one is asked for, or where the arguments are."""
    asked = kwargs.get("device")
    given = any(isinstance(leaf, OnDevice) for leaf in tree_leaves((args, kwargs)))
    there = torch.device(asked).type == DEVICE.type if asked is not None else given
    inner = dict(kwargs) | ({"device": torch.device("cpu")} if asked is not None else {})
    out = func(*on_cpu(args), **on_cpu(inner))
    if not there:
        return out
    out = tree_map_only(Tensor, OnDevice, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if given else out


class ValueDevice(Accelerator):
    """`Accelerator`, whose results have values."""

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return _carry_out(func, args, kwargs)


@contextlib.contextmanager
def value_device() -> Iterator[Accelerator]:
    """Run the block with a `DEVICE` that has values; `pretrain` trains on it, and saves from it."""
    save = torch.save
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
        accelerator(ValueDevice()) as counted,
    ):
        # Of torch's own meta device that is so; weights here are copied.
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
        patch.setattr(torch, "save", lambda state, *to: save(on_cpu(state), *to))
        patch.setattr("wsitool.training.assembly.training_device", lambda *_, **__: DEVICE)
        yield counted
