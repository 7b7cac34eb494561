"""Gaussian blur with a standard deviation of its own for every image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from wsitool.augment.batched import blur_taps, convolve, exact_products, upload
from wsitool.augment.draw import as_float, chosen, pieces, uniform

__all__ = ["blur", "blur_images", "blur_sigmas", "gaussian_blur"]

# Beyond four standard deviations a Gaussian holds 6e-5 of its mass: less than 1/255 of any pixel.
_REACH = 4
# Side in pixels up to which a CPU is faster with matrices, some images at once.
_MATRICES_UP_TO = 100
# Neighbours in a row that a CPU takes as channels: more multiply more zeros, fewer fill no vector.
_GROUP = 8


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
    return blur(images, blur_sigmas(rng, len(images), sigma, p), inplace=inplace)


def blur_sigmas(rng: Generator, count: int, sigma: tuple[float, float], p: float) -> Tensor:
    """The standard deviations (count,) that `gaussian_blur` draws, as `blur` takes them.

    Float32 on the generator's device, in pixels; 0 where an image is not blurred.
    """
    drawn = uniform(rng, count, *sigma)
    return torch.where(chosen(rng, count, p), drawn, 0.0)


def blur(images: Tensor, sigma: Tensor, *, inplace: bool = False) -> Tensor:
    """Blur each image with standard deviation `sigma` (B,) in pixels; 0 leaves it alone.

    Edges are reflected; equals torchvision's `gaussian_blur` with a kernel of ceil(4 sigma) pixels to each
    side (1e-5). Returns float (B, 3, H, W).
    """
    images = as_float(images)
    if images.device.type != "cpu":
        with exact_products():
            return convolve(
                images, *upload([blur_taps(sigma.cpu(), most=min(images.shape[-2:]) - 1)], images.device)
            )
    out = images if inplace else images.clone()
    for piece in pieces(out):
        # `out[piece]` is a view: it is blurred in place.
        # `out[piece]` is a view: it is blurred in place.
        blur_images(out[piece], sigma[piece].tolist())
    return out


def blur_images(images: Tensor, sigma: Sequence[float]) -> None:
    """Blur float images (n, C, H, W) on a CPU in place, any number of channels; 0 leaves one alone.

    `sigma` (n,) in pixels. Images of at most 100 px a side go through matrices all at once, larger ones one
    by one.
    """
    rows = [row for row, row_sigma in enumerate(sigma) if row_sigma]
    if max(images.shape[-2:]) > _MATRICES_UP_TO:
        for row in rows:
            _blur_image(images[row], sigma[row], images[row])
    elif rows:
        row_sigma = images.new_tensor([sigma[row] for row in rows])
        index = torch.tensor(rows)
        images[index] = _by_matrices(images[index], row_sigma)


def _by_matrices(images: Tensor, sigma: Tensor) -> Tensor:
    """A batch (n, C, H, W) with a different kernel for every image as two products."""
    height, width = images.shape[-2:]
    down = _blur_matrix(sigma, height)  # (n, H, H)
    across = down if width == height else _blur_matrix(sigma, width)
    columns = (down[:, None] @ images).flatten(1, 2)  # (n, C * H, W)
    return (columns @ across.transpose(1, 2)).view_as(images)


def _blur_matrix(sigma: Tensor, length: int) -> Tensor:
    """(n, length, length) matrices that blur a column, with the reflection at its ends folded in."""
    position = torch.arange(length, device=sigma.device)
    # The reach of the widest kernel in the batch; narrower ones get zeros beyond their own in `weights`.
    reach = int((sigma * _REACH).ceil().clamp_(max=length - 1).max()) if len(sigma) else 0
    offset = torch.arange(-reach, reach + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    weights = weights * (offset.abs() <= (sigma[:, None] * _REACH).ceil())
    weights = weights / weights.sum(dim=1, keepdim=True)  # (n, 2 reach + 1)
    # Reflection without repeating the edge: -1 is 1, length is length - 2.
    source = (position[:, None] + offset).abs()
    source = torch.where(source >= length, 2 * (length - 1) - source, source)  # (length, 2 reach + 1)
    matrix = torch.zeros((len(sigma), length, length), device=sigma.device, dtype=sigma.dtype)
    shape = (len(sigma), *source.shape)
    # Added, not set: reflected neighbours fall on the same pixel.
    return matrix.scatter_add_(2, source.expand(shape), weights[:, None].expand(shape))


def _blur_image(image: Tensor, sigma: float, out: Tensor) -> None:
    """Blur one float image (C, H, W) into `out`, which may be `image`; any number of channels.

    As convolutions of pixels taken `_GROUP` or `2 * _GROUP` neighbours of a row at a time as channels: a
    CPU's library has fast kernels for many channels, and for two or three only slow ones. Down, all channels
    have the same kernel; along rows, it becomes a banded matrix of channels by channels.
    """
    _, height, width = image.shape
    reach = math.ceil(sigma * _REACH)
    margin = -(-reach // _GROUP) * _GROUP
    # Rows are filled up to whole groups; what lies beyond `width` is cut off at the end.
    rest = -width % (2 * _GROUP)
    if margin + rest >= width or reach >= height:  # too small to be reflected that far
        out.copy_(_by_matrices(image[None], image.new_tensor([sigma]))[0])
        return
    padded = F.pad(image[None], (margin, margin + rest, reach, reach), mode="reflect")[0]
    kernel = image.new_tensor(_weights(sigma, reach))
    down = kernel.view(1, 1, -1, 1).expand(2 * _GROUP, 1, -1, 1)
    rows = F.conv2d(_as_channels(padded, 2 * _GROUP), down, groups=2 * _GROUP)  # (C, 16, H, blocks)
    rows = rows.permute(0, 2, 3, 1).reshape(1, -1, padded.shape[-1])
    across = F.conv2d(_as_channels(rows, _GROUP), _across(kernel, margin), stride=(1, 2))
    out.copy_(across.permute(0, 2, 3, 1).reshape(len(image), height, width + rest)[..., :width])


def _as_channels(rows: Tensor, group: int) -> Tensor:
    """(C, H, W) as (C, group, H, W / group), the same memory."""
    return rows.view(*rows.shape[:2], -1, group).permute(0, 3, 1, 2)


def _across(kernel: Tensor, margin: int) -> Tensor:
    """(16, 8, 1, taps): what each of 16 neighbours in a row takes from each of the 8 `taps` groups around."""
    length = 2 * (_GROUP + margin)
    before = margin - len(kernel) // 2
    # Rows that are one longer than the matrix's, laid end to end, shift by a column from row to row.
    row = F.pad(kernel, (before, length + 1 - before - len(kernel)))
    band = row.expand(2 * _GROUP, -1).reshape(-1)[: 2 * _GROUP * length]
    return band.view(2 * _GROUP, -1, _GROUP).transpose(1, 2)[:, :, None]


def _weights(sigma: float, reach: int) -> list[float]:
    """A Gaussian at the whole pixels from -reach to reach, of sum 1."""
    values = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-reach, reach + 1)]
    total = sum(values)
    return [value / total for value in values]
