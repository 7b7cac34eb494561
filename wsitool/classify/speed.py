"""How fast a backbone trains here."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from wsitool.backbones.build import build_encoder
from wsitool.backbones.device import choose_device, place
from wsitool.backbones.options import BackboneOptions

__all__ = ["seconds_per_image"]

_STEPS = 2


def seconds_per_image(
    options: BackboneOptions, *, init: str | Path, image_size: int, batch_size: int, device: str = "auto"
) -> float:
    """Time of one training step (forward and backward) on random images, divided by the batch size."""
    where = choose_device(device)
    encoder = build_encoder(options, init).train()
    place(encoder, where)
    images = torch.rand(batch_size, 3, image_size, image_size, device=where)
    encoder(images).sum().backward()  # the first step allocates
    # Two steps: an estimate for `experiment --dry-run`, not a benchmark.
    began = time.perf_counter()
    for _ in range(_STEPS):
        encoder(images).sum().backward()
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return (time.perf_counter() - began) / (_STEPS * batch_size)
