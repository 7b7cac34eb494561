"""The device that a process trains on."""

from __future__ import annotations

import torch

from wsitool.base.devices import device_names, same_kind
from wsitool.errors import UsageError

__all__ = ["device_type", "training_device"]


def device_type(device: str) -> str:
    """ "cpu", "cuda" or "mps" of a --device to train on; UsageError where this machine has no such.

    "auto" is what there is, else the CPU.
    """
    kind = same_kind(device)[0].partition(":")[0]
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    available = "cpu" if here is None or here.type not in ("cuda", "mps") else here.type
    if kind == "auto":
        return available
    if kind in ("cpu", available):
        return kind
    raise UsageError(
        f"Training cannot run with --device '{device}' here: this machine has "
        f"{'no GPU' if available == 'cpu' else available}; pass auto or cpu."
    )


def training_device(device: str, *, local_rank: int) -> torch.device:
    """Of the devices of a --device that of process `local_rank` of this machine, torch's current one then.

    The name's number, else the process's. UsageError where it is not there; CPUs are as many as asked for.
    """
    kind, names = device_type(device), device_names(device)
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.accelerator.device_count()
    numbers = [int(name.partition(":")[2] or place) for place, name in enumerate(names)]
    if max(numbers) >= count:
        raise UsageError(
            f"Training cannot run with --device {device} here: this machine has {count} {kind}, "
            f"{kind}:0{'' if count == 1 else f'-{count - 1}'}."
        )
    # More processes than names are one for each machine, or torchrun's, which `find_member` refuses.
    chosen = torch.device(kind, numbers[local_rank % len(numbers)])
    if kind == "cuda":
        # Collectives and streams without a device of their own use it.
        torch.cuda.set_device(chosen)
    return chosen
