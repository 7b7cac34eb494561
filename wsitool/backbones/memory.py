"""How many patches a network takes at once before memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wsitool.backbones.device import place
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.features import encoding
from wsitool.backbones.precision import inference
from wsitool.base.machine import FIRST_BATCH, BatchSize, largest_that_fits
from wsitool.base.progress import Reporter
from wsitool.errors import MemoryShortError

__all__ = ["InferenceBatch", "encoding_batch"]


class InferenceBatch:
    """Finds how many patches (B, 3, P, P) uint8 `step` of `module` computes at once on `device`, by trying.

    `otherwise` is what else can be done where memory is short.
    """

    def __init__(
        self,
        module: nn.Module,
        step: Callable[[Tensor], Tensor],
        *,
        patch_size: int,
        device: torch.device,
        precision: str,
        otherwise: str,
    ) -> None:
        self._module, self._step, self._side = module, step, patch_size
        self._device, self._precision, self._otherwise = device, precision, otherwise

    def try_patches(self, count: int) -> None:
        """Compute so many blank patches; what cannot be allocated passes."""
        place(self._module, self._device)
        self._module.eval()
        shape = (count, self._side, self._side, 3)
        with inference(self._device, self._precision):
            self._step(torch.zeros(shape, dtype=torch.uint8, device=self._device).permute(0, 3, 1, 2))

    def chosen(self, asked: BatchSize, reporter: Reporter) -> int:
        """`asked`, or for "auto" what fits; MemoryShortError where not even one patch does."""
        if asked != "auto":
            return asked
        size = largest_that_fits(self.try_patches, FIRST_BATCH)
        if size is None:
            raise MemoryShortError(f"There is not enough memory for one patch: {self._otherwise}.")
        reporter.say(f"--batch-size auto is {size}.")
        return size

    def advice(self, size: int) -> str:
        """What to do where `size` patches at once were too many."""
        fits = largest_that_fits(self.try_patches, size // 2)
        if fits is None:
            return f"lower --batch-size ({size}) or {self._otherwise}"
        return f"pass --batch-size {fits}, which fits, or {self._otherwise}"


def encoding_batch(
    encoder: Encoder, *, image_size: int, patch_size: int, device: torch.device, precision: str
) -> InferenceBatch:
    """Of features of patches of `patch_size` px, brought to `image_size`."""
    return InferenceBatch(
        encoder,
        encoding(encoder, image_size),
        patch_size=patch_size,
        device=device,
        precision=precision,
        otherwise=f"lower --image-size ({image_size})",
    )
