"""Context encoder: hide parts of a patch and paint them from what the rest shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import Method, Params, Step, hparam, random_d4, random_resized_crop, to_device, to_float

__all__ = ["ContextEncoder", "ContextEncoderParams", "hide", "inpainting_error"]

_CELLS = 8  # cells to a side, each hidden or not
_PAINTED = 32  # pixels to a side of what is painted: colour and coarse structure, which one vector can hold
_SPREAD = 0.02  # smallest standard deviation a target is divided by: blank glass has none


@dataclass(frozen=True, kw_only=True)
class ContextEncoderParams(Params):
    """How much is hidden, and the painter's size."""

    hidden_share: float = hparam(0.25, "share of the patch that is hidden", gt=0, lt=1)
    min_scale: float = hparam(0.3, "smallest share of the patch a crop keeps", gt=0, le=1)
    width: int = hparam(128, "channels of the painter's first layer", ge=4)


class ContextEncoder(Method[ContextEncoderParams]):
    """Pathak et al. 2016, Context encoders: feature learning by inpainting, arXiv:1604.07379.

    The masked-image method for encoders that give one vector: it must hold what the hidden cells look like.
    The loss is the reconstruction's alone, without the adversarial one. Colours are relative to the mean and
    spread of what is visible, so that guessing the mean costs about 1 (as He et al. 2022, arXiv:2111.06377).
    """

    params_type = ContextEncoderParams
    images_per_patch = 1

    def __init__(self, backbone: nn.Module, feature_dim: int, params: ContextEncoderParams) -> None:
        super().__init__(backbone, feature_dim, params)
        width = params.width
        self.painter = nn.Sequential(  # (B, F) -> (B, 3, 32, 32)
            nn.Linear(feature_dim, width * 16, bias=False),
            nn.Unflatten(1, (width, 4, 4)),
            _Larger(width, width // 2),
            _Larger(width // 2, width // 4),
            nn.BatchNorm2d(width // 4),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(width // 4, 3, 4, stride=2, padding=1),
        )

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        crops = random_resized_crop(patches, rng, size=patches.shape[-1], scale=(self.params.min_scale, 1.0))
        whole = to_float(random_d4(crops, rng))
        number = round(self.params.hidden_share * _CELLS**2)
        # On the CPU, where the generator is; only the mask goes to the device.
        order = torch.rand((len(patches), _CELLS**2), generator=rng).argsort(dim=1)
        # At least one cell hidden, and one visible.
        hidden = order < min(max(number, 1), _CELLS**2 - 1)  # as many cells of every patch
        hidden = to_device(hidden.view(-1, 1, _CELLS, _CELLS), patches.device)
        return {"whole": whole, "masked": hide(whole, hidden), "hidden": hidden}

    def loss(self, views: dict[str, Tensor]) -> Step:
        painted = self.painter(self.backbone(views["masked"]))  # (B, 3, 32, 32)
        # float64 is the conformance check's.
        painted = painted if painted.dtype == torch.float64 else painted.float()
        error, guess = inpainting_error(painted, views["whole"], views["hidden"])
        return Step(loss=error, chance_loss=guess)


class _Larger(nn.Sequential):
    """Twice the side: batch norm, ReLU and a transposed convolution."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1, bias=False),
        )


def hide(images: Tensor, hidden: Tensor) -> Tensor:
    """Float `images` (B, 3, P, P) with the `hidden` cells (B, 1, 8, 8) in the mean colour of the others."""
    mask = F.interpolate(hidden.to(images), size=images.shape[-2:])  # (B, 1, P, P), nearest
    mean, _ = _visible(images, mask)
    return torch.lerp(images, mean.expand_as(images), mask.expand_as(images))


def inpainting_error(painted: Tensor, whole: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of `painted` (B, 3, 32, 32) over the hidden cells, and that of guessing the mean.

    The truth is `whole` (B, 3, P, P) averaged to 32 x 32, less the mean of the visible pixels, over their
    standard deviation, per patch and channel.
    """
    truth = F.adaptive_avg_pool2d(whole.to(painted), _PAINTED)
    mask = F.interpolate(hidden.to(truth), size=truth.shape[-2:])  # (B, 1, 32, 32)
    mean, spread = _visible(truth, mask)
    truth = (truth - mean) / spread
    number = 3 * mask.sum()
    # Over the hidden cells of all patches: as many in each.
    return ((painted - truth).square() * mask).sum() / number, (truth.square() * mask).sum() / number


def _visible(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, 3, 1, 1) of the pixels where `mask` (B, 1, H, W) is 0."""
    seen = 1 - mask
    number = seen.sum(dim=(-2, -1), keepdim=True)
    mean = (images * seen).sum(dim=(-2, -1), keepdim=True) / number
    variance = ((images - mean).square() * seen).sum(dim=(-2, -1), keepdim=True) / number
    return mean, variance.sqrt().clamp_min(_SPREAD)
