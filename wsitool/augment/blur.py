"""Gaussian blur with a standard deviation of its own for every image."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from wsitool.augment.draw import as_float, chosen, uniform

__all__ = ["blur", "gaussian_blur"]

# Beyond four standard deviations a Gaussian holds 6e-5 of its mass: less than 1/255 of any pixel.
_REACH = 4
_BLOCK = 56


def gaussian_blur(
    images: Tensor,
    rng: Generator,
    *,
    sigma: tuple[float, float] = (0.1, 2.0),
    p: float = 0.5,
    inplace: bool = False,
) -> Tensor:
    """Blur each image with probability `p` and its own standard deviation in pixels; float (B, 3, H, W).

    `inplace` writes into float `images`, which saves a copy of a batch nobody else holds.
    """
    drawn = uniform(rng, len(images), *sigma)
    return blur(images, torch.where(chosen(rng, len(images), p), drawn, 0.0), inplace=inplace)


def blur(images: Tensor, sigma: Tensor, *, inplace: bool = False) -> Tensor:
    """Blur each image with standard deviation `sigma` (B,) in pixels; 0 leaves it alone.

    Edges are reflected; equals torchvision's `gaussian_blur` with a kernel of ceil(4 sigma) pixels to each
    side (1e-5). A blur of one axis is a matrix product, so that a batch with a different kernel for every
    image is still one call. Returns float (B, 3, H, W).
    """
    images = as_float(images)
    out = images if inplace else images.clone()
    index = sigma.nonzero().squeeze(1)
    sigma = sigma[index].to(device=images.device, dtype=images.dtype)
    down = _blur_matrix(sigma, images.shape[-2])  # (n, H, H)
    across = _blur_matrix(sigma, images.shape[-1]).transpose(1, 2)  # (n, W, W)
    if images.device.type != "cpu":
        index = index.to(images.device)
        out[index] = down[:, None] @ images[index] @ across[:, None]
        return out
    reach = (sigma * _REACH).ceil().long().tolist()
    for number, image in enumerate(index.tolist()):
        out[image] = _banded(images[image], down[number], across[number], reach[number])
    return out


def _blur_matrix(sigma: Tensor, length: int) -> Tensor:
    """(n, length, length) matrices that blur a column, with the reflection at its ends folded in."""
    place = torch.arange(length, device=sigma.device)
    reach = int((sigma * _REACH).ceil().clamp_(max=length - 1).max()) if len(sigma) else 0
    offset = torch.arange(-reach, reach + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    weights = weights * (offset.abs() <= (sigma[:, None] * _REACH).ceil())
    weights = weights / weights.sum(dim=1, keepdim=True)  # (n, 2 reach + 1)
    source = (place[:, None] + offset).abs()
    source = torch.where(source >= length, 2 * (length - 1) - source, source)  # (length, 2 reach + 1)
    matrix = torch.zeros((len(sigma), length, length), device=sigma.device, dtype=sigma.dtype)
    shape = (len(sigma), *source.shape)
    return matrix.scatter_add_(2, source.expand(shape), weights[:, None].expand(shape))


def _banded(image: Tensor, down: Tensor, across: Tensor, reach: int) -> Tensor:
    """down @ image @ across, leaving out the blocks of the matrices that are zero: (3, H, W)."""
    height, width = image.shape[-2:]
    rows = image.reshape(-1, width)
    blurred = torch.empty_like(rows)
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        first, last = max(start - reach, 0), min(stop + reach, width)
        blurred[:, start:stop] = rows[:, first:last] @ across[first:last, start:stop]
    blurred = blurred.view_as(image)
    out = torch.empty_like(image)
    for start in range(0, height, _BLOCK):
        stop = min(start + _BLOCK, height)
        first, last = max(start - reach, 0), min(stop + reach, height)
        torch.matmul(down[start:stop, first:last], blurred[:, first:last], out=out[:, start:stop])
    return out
