"""Colour: brightness, contrast, saturation and hue, greyscale, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from wsitool.augment.draw import as_float, chosen, pieces, uniform

__all__ = ["adjust_colour", "color_jitter", "grayscale", "normalize", "random_grayscale"]

_GREY = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as torchvision
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

Range = float | tuple[float, float]


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract `mean` and divide by `std` per channel: float (B, 3, H, W)."""
    images = as_float(images)
    centre = torch.tensor(mean, device=images.device, dtype=images.dtype)[:, None, None]
    spread = torch.tensor(std, device=images.device, dtype=images.dtype)[:, None, None]
    return (images - centre) / spread


def grayscale(images: Tensor, which: Tensor, *, inplace: bool = False) -> Tensor:
    """Replace the images where `which` (B,) bool by their luminance, in three equal channels; float.

    `inplace` writes into float `images`, which saves a copy of a batch nobody else holds.
    """
    out = as_float(images)
    out = out.clone() if out is images and not inplace else out
    weights = torch.tensor(_GREY, device=out.device, dtype=out.dtype)
    if out.device.type == "cpu":
        for index in which.nonzero().squeeze(1).tolist():
            out[index] = torch.tensordot(weights, out[index], dims=1)
        return out
    index = which.nonzero().squeeze(1).to(out.device)
    out[index] = torch.einsum("c,bchw->bhw", weights, out[index])[:, None]
    return out


def random_grayscale(images: Tensor, rng: Generator, p: float = 0.2, *, inplace: bool = False) -> Tensor:
    """Make each image grey with probability `p`; float (B, 3, H, W). `inplace` as for `grayscale`."""
    return grayscale(images, chosen(rng, len(images), p), inplace=inplace)


def color_jitter(
    images: Tensor,
    rng: Generator,
    *,
    brightness: Range = 0.0,
    contrast: Range = 0.0,
    saturation: Range = 0.0,
    hue: Range = 0.0,
    p: float = 1.0,
) -> Tensor:
    """Jitter each image's colours with probability `p`, with its own factors and its own order of operations.

    A number v means a factor in [max(0, 1 - v), 1 + v], and for hue a shift in [-v, v] turns, as in
    torchvision's ColorJitter; a pair gives the range itself. Returns float (B, 3, H, W) in [0, 1].
    """
    count = len(images)
    factors = torch.stack(
        [
            uniform(rng, count, *_range(value, centre))
            for value, centre in ((brightness, 1.0), (contrast, 1.0), (saturation, 1.0), (hue, 0.0))
        ],
        dim=1,
    )
    order = torch.rand((count, 4), device=rng.device, generator=rng).argsort(dim=1)
    left_alone = torch.tensor([1.0, 1.0, 1.0, 0.0], device=rng.device)
    factors = torch.where(chosen(rng, count, p)[:, None], factors, left_alone)
    return adjust_colour(images, factors, order)


def _range(value: Range, centre: float) -> tuple[float, float]:
    if isinstance(value, tuple):
        return value
    return (max(0.0, centre - value), centre + value) if centre else (-value, value)


def adjust_colour(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Adjust brightness, contrast, saturation and hue of each image by its own factors, in its own order.

    `factors` (B, 4) are the four arguments of torchvision's `adjust_*`; `order` (B, 4) is a permutation of
    0..3 (brightness, contrast, saturation, hue). Operations between two hue shifts are one 3x3 colour matrix,
    so that values are clamped to [0, 1] once after them, where torchvision clamps after each: the results
    are equal (1e-5) wherever no intermediate value leaves [0, 1]. Returns float (B, 3, H, W).
    """
    stages = _stages(factors.cpu().double(), order.cpu())
    out = torch.empty(images.shape, dtype=_float_type(images), device=images.device)
    for piece in pieces(images):
        part = as_float(images[piece])
        part = stages.before.apply(part, piece)
        part = _shift_hue(part, stages.hue[piece])
        out[piece] = stages.after.apply(part, piece)
    return out


def _float_type(images: Tensor) -> torch.dtype:
    return torch.float32 if images.dtype == torch.uint8 else images.dtype


@dataclass(frozen=True, kw_only=True)
class _Affine:
    """x -> on_pixels @ x + on_mean @ mean(x), per image; both (B, 3, 3).

    All operations but the hue shift are of this form, and so is any sequence of them.
    """

    on_pixels: Tensor
    on_mean: Tensor
    does_nothing: Tensor  # (B,) bool

    def apply(self, images: Tensor, piece: slice) -> Tensor:
        if bool(self.does_nothing[piece].all()):
            return images
        batch, channels, height, width = images.shape
        pixels = images.reshape(batch, channels, height * width)
        matrix = self.on_pixels[piece].to(images, non_blocking=True)
        offset = self.on_mean[piece].to(images, non_blocking=True) @ pixels.mean(dim=2, keepdim=True)
        return torch.baddbmm(offset, matrix, pixels).clamp_(0, 1).view_as(images)


@dataclass(frozen=True, kw_only=True)
class _Stages:
    before: _Affine
    hue: Tensor  # (B,)
    after: _Affine


def _stages(factors: Tensor, order: Tensor) -> _Stages:
    """Compose each image's operations, in its order, into what comes before and after its hue shift."""
    hue_at = (order == HUE).float().argmax(dim=1)
    before, after = (_compose(factors, order, hue_at, late=late) for late in (False, True))
    return _Stages(before=before, hue=factors[:, HUE], after=after)


def _compose(factors: Tensor, order: Tensor, hue_at: Tensor, *, late: bool) -> _Affine:
    identity = torch.eye(3, dtype=factors.dtype)
    grey = torch.tensor(_GREY, dtype=factors.dtype).expand(3, 3)  # every row makes luminance
    pixels = identity.expand(len(factors), 3, 3)
    mean = torch.zeros_like(pixels)
    for place in range(4):
        kind = order[:, place]
        active = (place > hue_at) if late else (place < hue_at)
        factor = factors.gather(1, kind[:, None])[:, :, None]
        mixed = factor * identity + (1 - factor) * grey
        step = torch.where((kind == SATURATION)[:, None, None], mixed, factor * identity)
        step = torch.where(active[:, None, None], step, identity)
        towards = ((kind == CONTRAST) & active)[:, None, None] * (1 - factor) * grey
        # The mean of what has been made so far is (pixels + mean) @ mean(x).
        pixels, mean = step @ pixels, step @ mean + towards @ (pixels + mean)
    nothing = ((pixels - identity).abs().amax(dim=(1, 2)) < 1e-9) & (mean.abs().amax(dim=(1, 2)) < 1e-9)
    return _Affine(on_pixels=pixels, on_mean=mean, does_nothing=nothing)


def _shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` (B,) turns, keeping HSV's value and saturation: torchvision's adjust_hue."""
    if not bool(shift.any()):
        return images
    red, green, blue = images.unbind(dim=1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    sixths = _hue_sixths(red, green, blue, high, chroma)
    sixths = sixths.add_(shift.to(images).mul(6)[:, None, None])
    sixths = sixths.sub_((sixths / 6).floor_().mul_(6))  # into [0, 6)
    out = torch.empty_like(images)
    # Each channel is low + chroma * (a trapezoid of the hue), see Smith 1978, doi:10.1145/965139.807361.
    for channel, (centre, rises) in enumerate(((3.0, True), (2.0, False), (4.0, False))):
        share = (sixths - centre).abs_()
        share = share.sub_(1) if rises else share.neg_().add_(2)
        torch.addcmul(low, share.clamp_(0, 1), chroma, out=out[:, channel])
    return out


def _hue_sixths(red: Tensor, green: Tensor, blue: Tensor, high: Tensor, chroma: Tensor) -> Tensor:
    """Hue in sixths of a turn, in [-1, 5]; 0 where there is no chroma."""
    scale = chroma.clamp(min=1e-12).reciprocal_()
    at_red = (green - blue).mul_(scale)
    at_green = (blue - red).mul_(scale).add_(2)
    at_blue = (red - green).mul_(scale).add_(4)
    # 0 where the channel is the highest, else 1. A lerp by such a weight is exact and, unlike torch.where on
    # a mask as irregular as tissue, does not stall on mispredicted branches: 9 us against 184 us for 224 px.
    not_red, not_green = (high - red).ceil_(), (high - green).ceil_()
    return torch.lerp(at_red, torch.lerp(at_green, at_blue, not_green), not_red)
