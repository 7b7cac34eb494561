"""Gaussian blur with a standard deviation of its own for every image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from wsitool.augment.draw import as_float, chosen, uniform

__all__ = ["blur", "gaussian_blur"]

# Beyond four standard deviations a Gaussian holds 6e-5 of its mass: less than 1/255 of any pixel.
_REACH = 4
# Outputs per product: larger ones multiply more zeros, smaller ones are more calls.
_BLOCK = 32


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
    if images.device.type == "cpu":
        bands = _bands(sigma, min(images.shape[-2:]) - 1)
        for image, band in zip(index.tolist(), bands, strict=True):
            _banded(images[image], band, out[image])
        return out
    index = index.to(images.device)
    out[index] = _by_matrices(images[index], sigma)
    return out


def _by_matrices(images: Tensor, sigma: Tensor) -> Tensor:
    """A batch with a different kernel for every image as two products."""
    down = _blur_matrix(sigma, images.shape[-2])  # (n, H, H)
    across = _blur_matrix(sigma, images.shape[-1]).transpose(1, 2)  # (n, W, W)
    return down[:, None] @ images @ across[:, None]


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


def _banded(image: Tensor, band: Tensor, out: Tensor) -> None:
    """One image (3, H, W): products with the banded part of the matrices only, block by block; into `out`.

    A CPU multiplies matrices several times as fast as it convolves three channels.
    """
    channels, height, width = image.shape
    reach = (band.shape[1] - _BLOCK) // 2
    padded = F.pad(image[None], (reach, reach, reach, reach), mode="reflect")[0]
    rows = padded.view(-1, width + 2 * reach)
    narrow = torch.empty((len(rows), width), dtype=image.dtype)
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        part = band[: stop - start, : stop - start + 2 * reach]
        torch.mm(rows[:, start : stop + 2 * reach], part.T, out=narrow[:, start:stop])
    columns = narrow.view(channels, height + 2 * reach, width)
    for start in range(0, height, _BLOCK):
        stop = min(start + _BLOCK, height)
        part = band[: stop - start, : stop - start + 2 * reach]
        out[:, start:stop] = part @ columns[:, start : stop + 2 * reach]


def _bands(sigma: Tensor, limit: int) -> Tensor:
    """(n, _BLOCK, _BLOCK + 2 reach): row i holds an image's kernel from column i on, zeros elsewhere.

    The reach is that of the widest kernel, at most `limit` pixels.
    """
    own = (sigma * _REACH).ceil_().clamp_(max=limit)
    reach = int(own.max()) if len(own) else 0
    offset = torch.arange(-reach, reach + 1, dtype=sigma.dtype)
    weights = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2).mul_(offset.abs() <= own[:, None])
    weights /= weights.sum(dim=1, keepdim=True)
    # Rows that are one longer than the matrix's, laid end to end, shift by a column from row to row.
    length = _BLOCK + 2 * reach
    rows = F.pad(weights, (0, _BLOCK))[:, None].expand(-1, _BLOCK, length + 1)
    return rows.reshape(len(sigma), _BLOCK * (length + 1))[:, : _BLOCK * length].view(
        len(sigma), _BLOCK, length
    )
