"""A whole batch of views at once, as accelerators need it: no branch, no index, nothing read back.

What was drawn is turned into the coefficients of each image on the CPU, goes up in one copy, and every
operation treats all images alike: one that leaves an image alone multiplies it by one. The operations are
those of a CPU's way, one image after another, within 1e-5 (crops of bytes within 1/255: they are rounded).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from wsitool.augment.color_image import GRAY, NO_CHROMA
from wsitool.augment.draw import to_device

__all__ = [
    "axis_coefficients",
    "axis_weights",
    "blend_coefficients",
    "blur_taps",
    "color_batch",
    "convolve",
    "exact_products",
    "gray_matrices",
    "mixed",
    "turned_crops",
    "upload",
]

_HUE, _CONTRAST, _SATURATION = 3, 1, 2
_SLOTS = 3  # of brightness, contrast and saturation before the hue, and as many after it
_REACH = 4  # standard deviations of a blur's kernel, as everywhere
_FAR = 1e9  # of a pixel that is no part of a crop, in pixels


@contextmanager
def exact_products() -> Iterator[None]:
    """No TF32: pixels are products of matrices here, and ten bits of mantissa would show in them."""
    before, before_conv = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = before_conv


def upload(parts: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Float parts of any shapes from a CPU to `device`, by one copy that the host does not wait for."""
    packed = to_device(torch.cat([part.reshape(-1) for part in parts]), device)
    sizes = [part.numel() for part in parts]
    return [flat.view(part.shape) for flat, part in zip(packed.split_with_sizes(sizes), parts, strict=True)]


def axis_coefficients(start: Tensor, length: Tensor, flipped: Tensor, *, extent: int, size: int) -> Tensor:
    """How [start, start + length) (n,) of `extent` pixels is sampled at `size` places: (n, 2 + extent).

    Lengths are in reaches of a place's triangle. First the centre of the place before the first, then the
    step from place to place, negative where `flipped` (n,), then the pixels' own centres, those outside so
    far away that no triangle reaches them.
    """
    start, length = start.float(), length.float()
    step = length / size
    reach = step.clamp(min=1.0)  # below one pixel a triangle would lie between the pixels
    center = torch.where(flipped, start + length + 0.5 * step, start - 0.5 * step) / reach
    pixels = torch.arange(extent) + 0.5
    inside = (pixels > start[:, None]) & (pixels < (start + length)[:, None])
    places = torch.where(inside, pixels / reach[:, None], _FAR)
    steps = torch.where(flipped, -step, step) / reach
    return torch.cat((center[:, None], steps[:, None], places), dim=1)


def axis_weights(coefficients: Tensor, numbers: Tensor) -> Tensor:
    """Weights (n, S, extent) of antialiased bilinear sampling; `numbers` (S,) are 1, 2, ..., S."""
    centers = torch.addcmul(coefficients[:, :1], coefficients[:, 1:2], numbers)  # (n, S)
    weights = (centers[:, :, None] - coefficients[:, None, 2:]).abs_()
    weights = torch.rsub(weights, 1).clamp_(min=0)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def turned_crops(patches: Tensor, rows: Tensor, columns: Tensor, transposed: Tensor | None = None) -> Tensor:
    """Float crops (V * B, 3, S, S) of patches (B, 3, H, W) in their range, all first views before all second.

    `rows` (B * V, S, H) are by patch, `columns` (V * B, S, W) by view; where `transposed` (V * B,) is 1 rows
    and columns change places, where it is 0 they do not.
    """
    count, _, height, width = patches.shape
    size = rows.shape[1]
    # In a store's memory the channels lie together, so that no copy is needed to take them as columns.
    lines = patches.permute(0, 2, 3, 1).float().reshape(count, height, width * 3)
    down = torch.bmm(rows.view(count, -1, height), lines)  # (B, V * S, W * 3)
    down = down.view(count, -1, size, width, 3).permute(1, 0, 4, 2, 3).reshape(-1, 3 * size, width)
    crops = torch.bmm(down, columns.transpose(1, 2)).view(-1, 3, size, size)
    if transposed is None:
        return crops
    return torch.lerp(crops, crops.transpose(2, 3), transposed[:, None, None, None])  # exact at 0 and 1


def blend_coefficients(factors: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Products (n, 6, 3, 3) of channels and of their means for `adjust_color`'s factors and orders (n, 4).

    Brightness, contrast and saturation draw an image to black, to its mean luminance or to its own one: a
    3 x 3 product of the channels and one of their means each. An image has three of them in its own order,
    some before its hue is turned, the others after it; the slots it does not need leave it as it is. Third
    what the turn of its hue needs, (n, 2, 3): see `_turn_hue`.
    """
    count = len(factors)
    position = torch.arange(4).expand(count, 4)
    hue_at = (order == _HUE).float().argmax(dim=1, keepdim=True)
    slot = torch.where(position < hue_at, position, position - hue_at - 1 + _SLOTS)
    slot = torch.where(position == hue_at, 2 * _SLOTS, slot)  # an extra one that is cut off again
    kind = torch.zeros((count, 2 * _SLOTS + 1), dtype=torch.long).scatter_(1, slot, order)[:, :-1]
    factor = torch.ones((count, 2 * _SLOTS + 1)).scatter_(1, slot, factors.gather(1, order))[:, :-1]
    luminance = torch.tensor(GRAY).expand(3, 3)
    rest = (1 - factor)[:, :, None, None] * luminance
    products = factor[:, :, None, None] * torch.eye(3) + rest * (kind == _SATURATION)[:, :, None, None]
    of_means = rest * (kind == _CONTRAST)[:, :, None, None]
    # Half a turn from where each channel is highest, turned back: so that a remainder is all the wrapping.
    highest = torch.tensor((-1 / 2, -1 / 6, 1 / 6)) - factors[:, _HUE, None]
    hue = torch.stack((torch.tensor((-1 / 6, 1 / 6, 1 / 6)).expand(count, 3), highest), dim=1)
    return products, of_means, hue


def color_batch(images: Tensor, products: Tensor, of_means: Tensor, hue: Tensor) -> Tensor:
    """Float images (n, 3, H, W) in the colours of `blend_coefficients`, clamped after each change."""
    values = images.flatten(2)  # (n, 3, H W)
    for slot in range(_SLOTS):
        values = _blend(values, products[:, slot], of_means[:, slot])
    values = _turn_hue(values, hue)
    for slot in range(_SLOTS, 2 * _SLOTS):
        values = _blend(values, products[:, slot], of_means[:, slot])
    return values.view_as(images)


def _blend(values: Tensor, product: Tensor, of_means: Tensor) -> Tensor:
    base = torch.bmm(of_means, values.mean(dim=2, keepdim=True))
    return torch.baddbmm(base, product, values).clamp_(0, 1)


def _turn_hue(values: Tensor, hue: Tensor) -> Tensor:
    """Turn the hue of (n, 3, N) by the constants `hue` (n, 2, 3), which were uploaded with the rest.

    The arithmetic of `color_image`, which is for a CPU: that writes into the image and reads memory least,
    this is of 15 calls instead of 22, which is what a GPU waits for.
    """
    factors, highest = hue[:, :1], hue[:, 1, :, None]  # (n, 1, 3), (n, 3, 1)
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    chroma = high - low  # (n, 1, N)
    # The hue's distance from red is (g + b - r - low) / 6 chroma + 1 / 6 turns; where there is no chroma it
    # is anything, and then multiplied by none.
    ahead = low.baddbmm_(factors, values, beta=-1 / 6)
    turns = torch.addcdiv(factors[:, :, 1:2], ahead, chroma.clamp(min=NO_CHROMA))
    turns = torch.copysign(turns, values[:, 1:2] - values[:, 2:3])  # on green's side, or on blue's
    away = (turns - highest).remainder_(1).sub_(0.5).abs_().clamp_(1 / 6, 1 / 3)  # from each one's highest
    return torch.addcmul(high + chroma, away, chroma, value=-6)


def gray_matrices(which: Tensor) -> Tensor:
    """Products (n, 3, 3) of the channels that make the images grey where `which` (n,) is true."""
    luminance = torch.tensor(GRAY).expand(3, 3)
    return torch.where(which[:, None, None], luminance, torch.eye(3))


def mixed(images: Tensor, products: Tensor) -> Tensor:
    """Images (n, 3, H, W) with each pixel's channels multiplied by the image's `products` (n, 3, 3)."""
    return torch.bmm(products, images.flatten(2)).view_as(images)


def blur_taps(sigma: Tensor, *, most: int, channels: int = 3, least: float = 0.0) -> Tensor:
    """Kernels (n * channels, 2 reach + 1) of Gaussians with deviation `sigma` (n,) in pixels, 0 for none.

    `most` is the longest reach: a reflected edge needs images that are larger. It is not below that of a
    deviation of `least`.
    """
    widest = max(float(sigma.max()) if len(sigma) else 0.0, least)
    reach = min(math.ceil(widest * _REACH), most)
    offset = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offset / sigma.clamp(min=1e-3)[:, None]) ** 2)
    weights = weights * (offset.abs() <= (sigma * _REACH).ceil()[:, None])
    return (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)


def convolve(images: Tensor, taps: Tensor) -> Tensor:
    """Images (n, C, H, W) blurred down and along, each channel by its `taps` (n * C, K); edges are reflected.

    An image must be larger than half a kernel.
    """
    groups, length = taps.shape
    reach = length // 2
    planes = images.reshape(1, groups, *images.shape[2:])
    planes = F.pad(planes, (reach, reach, reach, reach), mode="reflect")
    planes = F.conv2d(planes, taps[:, None, :, None], groups=groups)
    return F.conv2d(planes, taps[:, None, None, :], groups=groups).view_as(images)
