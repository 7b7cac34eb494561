"""The device that a process trains on."""

from __future__ import annotations

import torch

from wsitool.errors import UsageError

__all__ = ["device_type", "training_device"]


def device_type(accelerator: str) -> str:
    """ "cpu", "cuda" or "mps" of an --accelerator; UsageError where this machine has no such device.

    "auto" is what there is, else the CPU; "gpu" is what there is and no CPU.
    """
    here = torch.accelerator.current_accelerator(check_available=True)
    available = "cpu" if here is None or here.type not in ("cuda", "mps") else here.type
    if accelerator in ("cpu", available) or (
        accelerator == "auto" or (accelerator == "gpu" and available != "cpu")
    ):
        return available if accelerator in ("auto", "gpu") else accelerator
    raise UsageError(
        f"Training cannot run with --accelerator '{accelerator}' here: this machine has "
        f"{'no GPU' if available == 'cpu' else available}; pass auto or cpu."
    )


def training_device(accelerator: str, *, local_rank: int, devices: int) -> torch.device:
    """The device of process `local_rank` of this machine, which becomes torch's current one.

    UsageError where there are fewer than `devices`; CPUs are as many as asked for.
    """
    kind = device_type(accelerator)
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.accelerator.device_count()
    if devices > count:
        raise UsageError(
            f"Training cannot run with --devices {devices} here: this machine has {count} {kind}."
        )
    device = torch.device(kind, local_rank)
    if kind == "cuda":
        # Collectives and streams without a device of their own use it.
        torch.cuda.set_device(device)
    return device
