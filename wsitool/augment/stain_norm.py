"""Batches brought to one stain on their device: arithmetic only, nothing is read back.

The figures come from `wsitool.stain.fit`. Values of pixels are in [0, 255], before rounding.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

__all__ = ["normalize_lab", "normalize_stains"]

_LIGHT = 240.0  # of glass; as `wsitool.stain.fit`
# sRGB to CIE XYZ (IEC 61966-2-1) and the white of D65; then cube roots to CIELAB, without its offset.
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)
_LAB_FROM_ROOTS = ((0.0, 116.0, 0.0), (500.0, -500.0, 0.0), (0.0, 200.0, -200.0))
_LAB_OFFSET = ((-16.0,), (0.0,), (0.0,))
_DARK_XYZ, _DARK_ROOT, _DARK_LINEAR, _DARK_RGB = 0.008856, 0.2068966, 0.0031308, 0.04045


def normalize_stains(images: Tensor, products: Tensor) -> Tensor:
    """Float (B, 3, H, W) whose optical densities are multiplied by `products` (B, 9): Macenko et al. 2009."""
    densities = images.add(1).div_(_LIGHT).log_().flatten(2)
    mixed = torch.bmm(products.view(-1, 3, 3), densities)
    return mixed.exp_().mul_(_LIGHT).clamp_(0, 255).view(images.shape)


def normalize_lab(images: Tensor, values: Tensor) -> Tensor:
    """Float (B, 3, H, W) whose CIELAB is multiplied by the first 3 of `values` (B, 6), then shifted.

    The moments' way of Reinhard et al. 2001.
    """
    xyz_from_rgb, rgb_from_xyz, lab_from_roots, roots_from_lab, offset = _matrices(images.device)
    share = images.flatten(2) / 255
    linear = torch.where(share > _DARK_RGB, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    xyz = xyz_from_rgb @ linear
    # Below the bound the other branch counts; clamped, as no root is taken of less.
    roots = torch.where(xyz > _DARK_XYZ, xyz.clamp(min=_DARK_XYZ) ** (1 / 3), 7.787 * xyz + 16 / 116)
    lab = (lab_from_roots @ roots + offset) * values[:, :3, None] + values[:, 3:, None]
    roots = roots_from_lab @ (lab - offset)
    xyz = torch.where(roots > _DARK_ROOT, roots**3, (roots - 16 / 116) / 7.787)
    linear = rgb_from_xyz @ xyz
    bright = 1.055 * linear.clamp(min=_DARK_LINEAR) ** (1 / 2.4) - 0.055
    share = torch.where(linear > _DARK_LINEAR, bright, 12.92 * linear)
    return share.mul_(255).clamp_(0, 255).view(images.shape)


@cache
def _matrices(device: torch.device) -> tuple[Tensor, ...]:
    """All five, on a device once."""
    xyz = (
        torch.tensor(_XYZ_FROM_RGB, dtype=torch.float64) / torch.tensor(_WHITE, dtype=torch.float64)[:, None]
    )
    lab = torch.tensor(_LAB_FROM_ROOTS, dtype=torch.float64)
    both = (xyz, torch.linalg.inv(xyz), lab, torch.linalg.inv(lab), torch.tensor(_LAB_OFFSET))
    return tuple(matrix.to(device, torch.float32) for matrix in both)
