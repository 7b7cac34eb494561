"""Colour: brightness, contrast, saturation and hue, greyscale, normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from wsitool.augment.color_image import GRAY, LEFT_ALONE, adjust_images, gray_image
from wsitool.augment.draw import as_float, chosen, pieces, uniform
from wsitool.augment.hue import NO_CHROMA, turn_hue

__all__ = [
    "adjust_color",
    "color_jitter",
    "grayscale",
    "jitter_factors",
    "normalize",
    "random_grayscale",
]

Range = float | tuple[float, float]


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract `mean` and divide by `std` per channel: float (B, 3, H, W)."""
    images = as_float(images)
    center = torch.tensor(mean, device=images.device, dtype=images.dtype)[:, None, None]
    spread = torch.tensor(std, device=images.device, dtype=images.dtype)[:, None, None]
    return (images - center) / spread


def grayscale(images: Tensor, which: Tensor, *, inplace: bool = False) -> Tensor:
    """Replace the images where `which` (B,) bool by their luminance, in three equal channels; float.

    `inplace` writes into float `images`, which saves a copy of a batch nobody else holds.
    """
    out = as_float(images)
    out = out.clone() if out is images and not inplace else out
    index = which.nonzero().squeeze(1)
    if out.device.type == "cpu":
        for row in index.tolist():
            gray_image(out[row])
        return out
    index = index.to(out.device)
    out[index] = _luminance(out[index]).expand(-1, 3, -1, -1)
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
    drawn = jitter_factors(
        rng,
        len(images),
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        p=p,
    )
    return adjust_color(images, *drawn)


def jitter_factors(
    rng: Generator,
    count: int,
    *,
    brightness: Range = 0.0,
    contrast: Range = 0.0,
    saturation: Range = 0.0,
    hue: Range = 0.0,
    p: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The factors and orders that `color_jitter` draws for `count` images, as `adjust_colour` takes them."""
    factors = torch.stack(
        [
            uniform(rng, count, *_range(value, center))
            for value, center in ((brightness, 1.0), (contrast, 1.0), (saturation, 1.0), (hue, 0.0))
        ],
        dim=1,
    )
    order = torch.rand((count, 4), device=rng.device, generator=rng).argsort(dim=1)
    left_alone = torch.tensor(LEFT_ALONE, device=rng.device)
    return torch.where(chosen(rng, count, p)[:, None], factors, left_alone), order


def _range(value: Range, center: float) -> tuple[float, float]:
    if isinstance(value, tuple):
        return value
    return (max(0.0, center - value), center + value) if center else (-value, value)


def adjust_color(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Adjust brightness, contrast, saturation and hue of each image by its own factors, in its own order.

    `factors` (B, 4) are the four arguments of torchvision's `adjust_*`; `order` (B, 4) is a permutation of
    0..3 (brightness, contrast, saturation, hue). Equals torchvision's operations one after the other on float
    images, values clamped to [0, 1] after each (1e-5). Returns float (B, 3, H, W).
    """
    factors, order = factors.cpu(), order.cpu()
    out = torch.empty(images.shape, dtype=_float_type(images), device=images.device)
    if images.device.type != "cpu":
        out.copy_(as_float(images))
        for step in range(4):
            _adjust_together(out, order[:, step], factors)
        return out
    for piece in pieces(out):
        adjust_images(images[piece].unbind(), out[piece], factors[piece].tolist(), order[piece].tolist())
    return out


def _float_type(images: Tensor) -> torch.dtype:
    return torch.float32 if images.dtype == torch.uint8 else images.dtype


def _adjust_together(images: Tensor, kind: Tensor, factors: Tensor) -> None:
    """Change each image of the batch by the operation whose turn it is; `kind` (B,) is known to the host."""
    for number, operation in enumerate(_OPERATIONS):
        rows = ((kind == number) & (factors[:, number] != LEFT_ALONE[number])).nonzero().squeeze(1)
        if len(rows):
            index = rows.to(images.device)
            chosen_ones = images[index]
            operation(chosen_ones, factors[rows, number].to(images)[:, None, None, None])
            images[index] = chosen_ones


# The operations change (B, 3, H, W) in place; the factor is (B, 1, 1, 1).


def _brighten(images: Tensor, factor: Tensor) -> None:
    images.mul_(factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor) -> None:
    mean = _luminance(images).mean(dim=(-2, -1), keepdim=True)
    images.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def _saturate(images: Tensor, factor: Tensor) -> None:
    gray = _luminance(images)
    images.mul_(factor).add_(gray.mul_(1 - factor)).clamp_(0, 1)


def _shift_hue(images: Tensor, shift: Tensor) -> None:
    turn_hue(images, shift[:, 0] % 1, images.new_tensor(NO_CHROMA))


def _luminance(images: Tensor) -> Tensor:
    """(B, 1, H, W) of (B, 3, H, W)."""
    gray = images[:, 0:1] * GRAY[0]
    return gray.add_(images[:, 1:2], alpha=GRAY[1]).add_(images[:, 2:3], alpha=GRAY[2])


_OPERATIONS: tuple[Callable[[Tensor, Tensor], None], ...] = (
    _brighten,
    _contrast,
    _saturate,
    _shift_hue,
)
