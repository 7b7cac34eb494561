"""How deep in a transformer each weight lies, for rates that fall from the last block to the first."""

from __future__ import annotations

import re

from torch import nn

from wsitool.backbones.encoder import Encoder
from wsitool.errors import UsageError

__all__ = ["block_depths"]

_BLOCK = re.compile(r"blocks\.(\d+)\.")


def block_depths(encoder: Encoder) -> dict[nn.Parameter, int]:
    """Depth of each parameter: 0 for embeddings, 1 to n for blocks, n for what comes after them, as in timm.

    UsageError for a network without numbered blocks in a row.
    """
    blocks = getattr(encoder.trunk, "blocks", None)
    if not isinstance(blocks, nn.Sequential) or encoder.patch_size is None:
        raise UsageError(
            f"--layer-decay is for transformers, and {encoder.name} is none: leave it out, or pass "
            "--backbone timm:vit_small_patch16_224."
        )
    depths = {}
    for name, weight in encoder.trunk.named_parameters():
        block = _BLOCK.match(name)
        is_after = name.startswith(("norm.", "fc_norm.", "attn_pool."))
        depths[weight] = int(block[1]) + 1 if block else (len(blocks) if is_after else 0)
    return depths
