"""LoRA: low-rank updates of linear layers are trained, and in the end merged into the weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from wsitool.backbones.encoder import Encoder
from wsitool.classify.settings import Settings
from wsitool.errors import UsageError

__all__ = ["low_rank"]


@contextmanager
def low_rank(encoder: Encoder, settings: Settings, *, seed: int) -> Iterator[Mapping[str, int]]:
    """Within the block nothing of `encoder` can be trained but updates B A of its linear layers (Hu et al.
    2021, arXiv:2106.09685), of rank `lora_rank` and weighted by 2 as there; gives the card's fields.

    Afterwards they are part of its weights, under the names it had. UsageError for a network without linear
    layers.
    """
    # Of that very type: torch's attention reads the weights of its own kind and would pass updates by.
    names = [name for name, part in encoder.trunk.named_modules() if type(part) is nn.Linear]
    if not names:
        raise UsageError(
            f"--head lora updates linear layers, and {encoder.name} has none: use --head finetune, or a "
            "transformer."
        )
    # Only now: it brings transformers.
    from peft import LoraConfig, LoraModel

    rank = settings.lora_rank
    # As one expression of whole names: a list would be of endings.
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="|".join(map(re.escape, names)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = LoraModel(encoder.trunk, config, "default")
    yield {"lora_rank": rank}
    adapted.merge_and_unload()
    encoder.trunk.requires_grad_(True)
