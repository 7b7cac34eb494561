"""Crops, resizing, flips and rotations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from wsitool.augment.batched import (
    axis_coefficients,
    axis_weights,
    exact_products,
    turned_crops,
    upload,
)
from wsitool.augment.draw import as_float, chosen, uniform

__all__ = [
    "crop_boxes",
    "crop_image",
    "flip_rotate",
    "flip_rotate_image",
    "random_d4",
    "random_hflip",
    "random_resized_crop",
    "random_vflip",
    "resize",
    "resized_crop",
    "square_flips",
    "to_float",
]

_ATTEMPTS = 10


def to_float(patches: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) as float32 in [0, 1]; float images are returned as they are."""
    return as_float(patches)


def resize(images: Tensor, size: int) -> Tensor:
    """Resize to (size, size) with antialiased bilinear interpolation, as torchvision's `resize` does.

    (B, C, H, W), dtype kept; `images` themselves where they have the size. Bytes are resized as such on a
    CPU only; other devices have no kernel for them, so that there they are floats in between and may differ
    by one.
    """
    if images.shape[-2:] == (size, size):
        return images
    if images.dtype != torch.uint8 or images.device.type == "cpu":
        return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    resized = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def crop_boxes(
    rng: Generator,
    count: int,
    height: int,
    width: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Draw `count` boxes (top, left, height, width), (count, 4) int64, of random area share and aspect.

    The distribution is that of torchvision's RandomResizedCrop: ten attempts, else the largest central box
    of a permitted aspect.
    """
    area = height * width * uniform(rng, (count, _ATTEMPTS), *scale)
    # Uniform in the logarithm, so that 3:4 is as likely as 4:3.
    aspect = uniform(rng, (count, _ATTEMPTS), math.log(ratio[0]), math.log(ratio[1])).exp()
    widths = (area * aspect).sqrt().round().long()
    heights = (area / aspect).sqrt().round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    # The first attempt that fits; argmax of all False is 0, which `none_fits` replaces.
    first = fits.float().argmax(dim=1, keepdim=True)
    none_fits = ~fits.any(dim=1)
    central_height, central_width = _central_box(height, width, ratio)
    box_width = widths.gather(1, first).squeeze(1).masked_fill(none_fits, central_width)
    box_height = heights.gather(1, first).squeeze(1).masked_fill(none_fits, central_height)
    # floor(u * n) with u < 1 is uniform over 0..n-1; float32 u is fine for any patch size.
    offset = torch.rand((2, count), device=rng.device, generator=rng)
    # Rounding up to n is what float32 could do at worst, hence the clamps.
    top = (offset[0] * (height - box_height + 1)).long().clamp_(max=height - 1)
    left = (offset[1] * (width - box_width + 1)).long().clamp_(max=width - 1)
    top = torch.where(none_fits, (height - box_height) // 2, torch.minimum(top, height - box_height))
    left = torch.where(none_fits, (width - box_width) // 2, torch.minimum(left, width - box_width))
    return torch.stack((top, left, box_height, box_width), dim=1)


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width


def resized_crop(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop each image to its own box (B, 4) top, left, height, width and resize it to (size, size).

    Antialiased bilinear, dtype kept. On the CPU this is torchvision's `resized_crop` bit for bit; elsewhere
    the same weights are applied to the whole batch at once as two matrix products, equal within 1/255.
    """
    if images.device.type == "cpu":
        return _crop_one_by_one(images, boxes, size)
    return _crop_by_matrices(images, boxes, size)


def _crop_one_by_one(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    # uint8 interpolation is several times faster when the channels lie together, as they do in a store.
    layout = torch.channels_last if images.dtype == torch.uint8 else torch.contiguous_format
    out = torch.empty((len(images), images.shape[1], size, size), dtype=images.dtype, memory_format=layout)
    images = images.contiguous(memory_format=layout)
    for index, box in enumerate(boxes.tolist()):
        out[index] = crop_image(images[index : index + 1], box, size)[0]
    return out


def crop_image(image: Tensor, box: Sequence[int], size: int) -> Tensor:
    """One image (1, 3, H, W) cropped to `box` and resized: (1, 3, size, size).

    It stays a batch of one: torch then sees that the channels lie together, and is three times as fast.
    """
    top, left, height, width = box
    part = image[:, :, top : top + height, left : left + width]
    return F.interpolate(part, size=(size, size), mode="bilinear", antialias=True)


def _crop_by_matrices(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    boxes, straight = boxes.cpu(), torch.zeros(len(boxes), dtype=torch.bool)
    rows = axis_coefficients(boxes[:, 0], boxes[:, 2], straight, extent=images.shape[-2], size=size)
    columns = axis_coefficients(boxes[:, 1], boxes[:, 3], straight, extent=images.shape[-1], size=size)
    rows, columns, numbers = upload((rows, columns, torch.arange(1.0, size + 1)), images.device)
    with exact_products():
        crops = turned_crops(images, axis_weights(rows, numbers), axis_weights(columns, numbers))
    return crops.to(images.dtype) if images.is_floating_point() else crops.round_().to(images.dtype)


def random_resized_crop(
    patches: Tensor,
    rng: Generator,
    *,
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Crop every patch at random and resize to (size, size): (B, 3, size, size), dtype kept.

    See `crop_boxes` for the distribution and `resized_crop` for how pixels are made; `rng` alone decides.
    """
    boxes = crop_boxes(rng, len(patches), *patches.shape[-2:], scale=scale, ratio=ratio)
    return resized_crop(patches, boxes, size)


def flip_rotate(images: Tensor, element: Tensor) -> Tensor:
    """Apply one symmetry of the square to each image: `element` (B,) int64 in 0..7.

    Element e is `torch.rot90(x, e % 4, (-2, -1))`, mirrored left-right before it where e >= 4.
    Square images only (ValueError).
    """
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"Rotations need square images, got {images.shape[-2]}x{images.shape[-1]}.")
    if images.device.type != "cpu":
        flips = upload([part.float() for part in square_flips(element.cpu())], images.device)
        rows, columns, transposed = ((part > 0)[:, None, None, None] for part in flips)
        images = torch.where(rows, images.flip(-2), images)
        images = torch.where(columns, images.flip(-1), images)
        return torch.where(transposed, images.transpose(-1, -2), images)
    out = torch.empty_like(images)
    # One copy an image: selecting by symmetry would gather and scatter the batch eight times.
    for image, turned, e in zip(images, out, element.tolist(), strict=True):
        turned.copy_(flip_rotate_image(image, e))
    return out


def square_flips(element: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Symmetries (n,) as flips of rows, flips of columns and then a transposition: (n,) bool each."""
    turns, mirrored = element % 4, element >= 4
    return turns >= 2, mirrored ^ ((turns == 1) | (turns == 2)), turns % 2 == 1


def flip_rotate_image(image: Tensor, e: int) -> Tensor:
    """Symmetry `e` of one image (..., 3, H, W) as `flip_rotate` numbers them; `image` itself for 0.

    Any other has memory of its own.
    """
    image = image.flip(-1) if e >= 4 else image
    return torch.rot90(image, e % 4, (-2, -1)) if e % 4 else image


def random_d4(images: Tensor, rng: Generator) -> Tensor:
    """One of the eight flips and quarter turns for each image: tissue has no up or down.

    (B, C, P, P) of square images (ValueError for others), dtype kept; pixels move, none is interpolated.
    """
    element = torch.randint(0, 8, (len(images),), device=rng.device, generator=rng)
    return flip_rotate(images, element)


def random_hflip(images: Tensor, rng: Generator, p: float = 0.5) -> Tensor:
    """Mirror each image left to right with probability `p`."""
    return _flip(images, chosen(rng, len(images), p), -1)


def random_vflip(images: Tensor, rng: Generator, p: float = 0.5) -> Tensor:
    """Mirror each image top to bottom with probability `p`."""
    return _flip(images, chosen(rng, len(images), p), -2)


def _flip(images: Tensor, which: Tensor, dim: int) -> Tensor:
    if images.device.type != "cpu":
        return torch.where(
            upload([which.float()], images.device)[0][:, None, None, None] > 0, images.flip(dim), images
        )
    out = images.clone()
    for index in which.nonzero().squeeze(1).tolist():
        out[index] = images[index].flip(dim)
    return out
