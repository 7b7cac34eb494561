"""Whether a network takes images of a size, asked before hours of work."""

from __future__ import annotations

from typing import Any

import torch

from wsitool.backbones.encoder import Encoder
from wsitool.base.machine import is_memory_short
from wsitool.base.progress import SILENT, Reporter
from wsitool.errors import EncoderError

__all__ = ["check_size"]


def check_size(encoder: Encoder, size: int, reporter: Reporter = SILENT) -> None:
    """Send one image of `size` px through the network; EncoderError if it does not take it.

    In evaluation mode, without gradient, on the CPU. A failed allocation passes as it is. Says where position
    embeddings are resampled for that size.
    """
    # One image will do: in evaluation mode batch norm does not look at the batch.
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            shape = tuple(encoder(torch.zeros(1, 3, size, size)).shape)
    except (RuntimeError, AssertionError) as error:
        # A lack of memory is not the size's fault; the caller has the advice for it.
        if is_memory_short(error):
            raise
        reason = str(error).splitlines()[0]
        raise EncoderError(
            f"{encoder.name} cannot take images of {size} px ({reason}): choose another --image-size."
        ) from None
    encoder.train(was_training)
    # A network may take the size and give a map instead of a vector.
    if shape != (1, encoder.feature_dim):
        raise EncoderError(
            f"{encoder.name} must give features (1, {encoder.feature_dim}), got {shape}: "
            "use another backbone."
        )
    grid, patch = _positions(encoder.trunk)
    if grid and patch and size // patch != grid:
        reporter.say(
            f"{encoder.name} has position embeddings of {grid * patch} px ({grid} x {grid}); for {size} px "
            f"they are resampled to {size // patch} x {size // patch}, by its library's rule."
        )


def _positions(trunk: Any) -> tuple[int | None, int | None]:
    """Side of the grid that learnt positions are of, and of a patch in pixels; None for other networks."""
    if getattr(trunk, "pos_embed", None) is not None and hasattr(trunk, "patch_embed"):
        embed = trunk.patch_embed
        return getattr(embed, "grid_size", (None,))[0], getattr(embed, "patch_size", (None,))[0]
    names = (name.rpartition(".")[2] for name, _ in trunk.named_parameters())
    config = getattr(trunk, "config", None)
    size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if "position_embeddings" in names and isinstance(size, int) and isinstance(patch, int):
        return size // patch, patch
    return None, None
