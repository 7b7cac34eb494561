"""Randomness as a function of (seed, step, rank), so that any step can be repeated on its own."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["seed_networks", "seed_of", "step_generator"]


def seed_of(*parts: int) -> int:
    """Mix numbers into one 63-bit seed; neighbouring inputs give unrelated seeds.

    The order counts. The same on every platform and device.
    """
    words = [part % 2**64 for part in parts]  # a step below zero is as good a number as any
    # Shifted to 63 bits, which every generator takes as a signed number.
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """The generator of one step's views. It lives on the CPU: the same numbers on every device."""
    return torch.Generator().manual_seed(seed_of(seed, step, rank))


def seed_networks(seed: int, device: torch.device) -> None:
    """Seed the global generators that networks on `device` draw from: dropout and the like.

    Not torch.manual_seed: on a machine without a GPU that formats and keeps a stack trace at every call, for
    each kind of device that was never used - a millisecond and some kilobytes a step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)
