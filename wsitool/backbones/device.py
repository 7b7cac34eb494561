"""Putting a network where it will run, in the layout and with the memory handling that make it fast there."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from wsitool.base.devices import one_device
from wsitool.errors import UsageError

__all__ = ["choose_device", "keep_freed_memory", "pin_threads", "place"]

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 1 << 30  # bytes: what is larger goes back to the system as before
_MOST_KEPT = 2**31 - 1
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def choose_device(name: str) -> torch.device:
    """The device of that name, "auto" being CUDA where there is one, else the CPU; UsageError for no such.

    Asks the device for a number, since torch makes devices of names without looking: that costs the start of
    CUDA.
    """
    name = one_device(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(
            1, device=device
        ).cpu()  # names of devices that are not here, or hold no data, are names too
    except (RuntimeError, AssertionError, ImportError, ValueError):
        raise UsageError(f"There is no device {name[:40]!r} here: pass auto, cpu, cuda or cuda:1.") from None
    return device


def place(network: nn.Module, device: torch.device) -> None:
    """Move `network` to `device`, its convolutions with channels last, on threads that stay as many."""
    keep_freed_memory(device)
    pin_threads()
    network.to(device)
    # Channels last: CPUs and tensor cores convolve faster in it.
    network.to(memory_format=torch.channels_last)


def pin_threads() -> None:
    """Keep the number of threads torch has now, so that a resumed run rounds as the first one did.

    Until it is set, MKL chooses it for every product by how busy the machine is, and the last bits with it.
    """
    torch.set_num_threads(torch.get_num_threads())


@contextmanager
def threads(count: int) -> Iterator[None]:
    """In this block torch computes on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_each(devices: Sequence[str]) -> int:
    """Of each of several processes, one for each of `devices`: those on the CPU share its threads.

    With all threads each they would mostly wait for one another.
    """
    return max(1, torch.get_num_threads() // max(1, sum(device == "cpu" for device in devices)))


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU, have the C library keep what one batch frees for the next; up to 2 GiB of this process.

    By default glibc gives every large block back to the system, which has to clear its pages anew for each
    result of each layer: up to three quarters of an inference's time. Nothing is done for other devices,
    without glibc, or where the user has set its malloc in the environment.
    """
    if device.type != "cpu" or any(name in os.environ for name in _OWN_SETTINGS):
        return
    # glibc's own C library is in the process already; musl and macOS have no such function.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        # Setting either ends glibc's own adaptation of both, hence the second call.
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
