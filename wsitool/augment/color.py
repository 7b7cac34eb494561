"""Colour: brightness, contrast, saturation and hue, greyscale, normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from wsitool.augment.batched import (
    blend_coefficients,
    color_batch,
    exact_products,
    gray_matrices,
    mixed,
    upload,
)
from wsitool.augment.color_image import LEFT_ALONE, adjust_images, gray_image, solarize_image
from wsitool.augment.draw import as_float, chosen, pieces, to_device, uniform

__all__ = [
    "adjust_color",
    "color_jitter",
    "grayscale",
    "jitter_factors",
    "normalize",
    "random_grayscale",
    "solarize",
]

Range = float | tuple[float, float]


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract `mean` and divide by `std` per channel: float (B, 3, H, W)."""
    images = as_float(images)
    both = to_device(torch.tensor([mean, std], dtype=images.dtype), images.device)[..., None, None]
    return (images - both[0]) / both[1]


def grayscale(images: Tensor, which: Tensor, *, inplace: bool = False) -> Tensor:
    """Replace the images where `which` (B,) bool by their luminance, in three equal channels; float.

    `inplace` writes into float `images`, which saves a copy of a batch nobody else holds.
    """
    out = as_float(images)
    if out.device.type != "cpu":
        with exact_products():
            return mixed(out, *upload([gray_matrices(which.cpu())], out.device))
    out = out.clone() if out is images and not inplace else out
    for row in which.nonzero().squeeze(1).tolist():
        gray_image(out[row])
    return out


def random_grayscale(images: Tensor, rng: Generator, p: float = 0.2, *, inplace: bool = False) -> Tensor:
    """Make each image grey with probability `p`; float (B, 3, H, W). `inplace` as for `grayscale`."""
    return grayscale(images, chosen(rng, len(images), p), inplace=inplace)


def solarize(images: Tensor, which: Tensor) -> Tensor:
    """Invert the values of at least 0.5 in the images where `which` (B,) bool; float (B, 3, H, W).

    Equals torchvision's `solarize` of float images at threshold 0.5.
    """
    images = as_float(images)
    if images.device.type != "cpu":
        inverted = (images >= 0.5) & to_device(which, images.device)[:, None, None, None]
        return torch.where(inverted, 1 - images, images)
    out = images.clone()
    for row in which.nonzero().squeeze(1).tolist():
        solarize_image(out[row])
    return out


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
    """The factors and orders that `color_jitter` draws for `count` images, as `adjust_color` takes them.

    `factors` (count, 4) float32 and `order` (count, 4) int64, on the generator's device; images that are left
    alone have factors that change nothing.
    """
    factors = torch.stack(
        [
            uniform(rng, count, *_range(value, center))
            for value, center in ((brightness, 1.0), (contrast, 1.0), (saturation, 1.0), (hue, 0.0))
        ],
        dim=1,
    )
    # The order of random numbers is a random permutation; ties in float32 are too rare to bias it.
    order = torch.rand((count, 4), device=rng.device, generator=rng).argsort(dim=1)
    left_alone = torch.tensor(LEFT_ALONE, device=rng.device)
    return torch.where(chosen(rng, count, p)[:, None], factors, left_alone), order


def _range(value: Range, center: float) -> tuple[float, float]:
    if isinstance(value, tuple):
        return value
    # Brightness, contrast and saturation have their neutral value at 1 and may not be negative; hue turns
    # around 0.
    return (max(0.0, center - value), center + value) if center else (-value, value)


def adjust_color(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Adjust brightness, contrast, saturation and hue of each image by its own factors, in its own order.

    `factors` (B, 4) are the four arguments of torchvision's `adjust_*`; `order` (B, 4) is a permutation of
    0..3 (brightness, contrast, saturation, hue). Equals torchvision's operations one after the other on float
    images, values clamped to [0, 1] after each (1e-5). Returns float (B, 3, H, W).
    """
    # No wait where they are on the CPU already, as they are with a CPU's generator.
    factors, order = factors.cpu(), order.cpu()
    if images.device.type != "cpu":
        coefficients = upload(blend_coefficients(factors, order), images.device)
        with exact_products():
            return color_batch(as_float(images), *coefficients)
    out = torch.empty(images.shape, dtype=_float_type(images))
    for piece in pieces(out):
        adjust_images(images[piece].unbind(), out[piece], factors[piece].tolist(), order[piece].tolist())
    return out


def _float_type(images: Tensor) -> torch.dtype:
    return torch.float32 if images.dtype == torch.uint8 else images.dtype
