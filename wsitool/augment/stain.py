"""Stain: haematoxylin, eosin and residual, separated, jittered and put together again."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from wsitool.augment.batched import exact_products, upload
from wsitool.augment.draw import as_float, chosen, pieces, uniform

__all__ = ["DARKEST", "hed_jitter", "mix_stains", "shift_hed", "stain_products", "stain_shifts"]

# Rows: optical density of haematoxylin, eosin and DAB in R, G, B (Ruifrok & Johnston 2001), as scikit-image.
_RGB_FROM_HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
DARKEST = 1e-6


def hed_jitter(
    images: Tensor, rng: Generator, *, sigma: float = 0.05, bias: float = 0.01, p: float = 1.0
) -> Tensor:
    """Vary how strongly each image is stained (Tellez et al. 2018, doi:10.1109/TMI.2018.2820199).

    Each stain's concentration is multiplied by 1 + U(-sigma, sigma) and shifted by U(-bias, bias), with
    probability `p` for an image. Returns float (B, 3, H, W) in [0, 1].
    """
    return shift_hed(images, *stain_shifts(rng, len(images), sigma=sigma, bias=bias, p=p))


def stain_shifts(
    rng: Generator, count: int, *, sigma: float = 0.05, bias: float = 0.01, p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The factors and shifts that `hed_jitter` draws for `count` images, as `shift_hed` takes them.

    Two tensors (count, 3) float32 on the generator's device, a column for haematoxylin, eosin and DAB; 1 and
    0 where an image is left alone.
    """
    which = chosen(rng, count, p)[:, None]
    alpha = torch.where(which, uniform(rng, (count, 3), 1 - sigma, 1 + sigma), 1.0)
    beta = torch.where(which, uniform(rng, (count, 3), -bias, bias), 0.0)
    return alpha, beta


def shift_hed(images: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Scale each image's stain concentrations by `alpha` (B, 3) and add `beta` (B, 3).

    Concentrations are those of scikit-image's `rgb2hed`, without its cut at zero, so that alpha = 1 and
    beta = 0 give the image back. Returns float (B, 3, H, W).
    """
    products, shift = stain_products(alpha.cpu(), beta.cpu())
    if images.device.type != "cpu":
        with exact_products():
            return mix_stains(as_float(images), *upload((products, shift), images.device))
    out = torch.empty(images.shape, dtype=as_float(images[:0]).dtype)
    for piece in pieces(images):
        part = as_float(images[piece])
        out[piece] = mix_stains(part, products[piece].to(part), shift[piece].to(part))
    return out


def stain_products(alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Products (n, 3, 3) and shifts (n, 3, 1), float32, of the channels' logarithms: see `mix_stains`."""
    # In double precision, so that a matrix times its inverse is one where nothing is to change.
    rgb_from_hed = torch.tensor(_RGB_FROM_HED, dtype=torch.float64)
    hed_from_rgb = torch.linalg.inv(rgb_from_hed)
    # As rows, density' = density @ hed_from_rgb @ diag(alpha) @ rgb_from_hed + beta @ rgb_from_hed / scale;
    # transposed here, because channels come before pixels.
    mix = (hed_from_rgb @ torch.diag_embed(alpha.double()) @ rgb_from_hed).transpose(1, 2)
    shift = (beta.double() @ rgb_from_hed)[:, :, None]
    # scikit-image measures density in units of -log(1e-6), and a logarithm is a density with its sign turned
    return mix.float(), (shift * torch.tensor(DARKEST, dtype=torch.float64).log()).float()


def mix_stains(images: Tensor, products: Tensor, shift: Tensor, *, darkest: float = DARKEST) -> Tensor:
    """Float images (n, 3, H, W) whose logarithms are multiplied by `products` and shifted, in [0, 1].

    `darkest` stands for what is darker; of images in another range than [0, 1] both must know it.
    """
    # Clamped, as the logarithm of black is not finite; (n, 3, H W).
    densities = images.clamp(min=darkest).log_().flatten(2)
    return torch.baddbmm(shift, products, densities).exp_().clamp_(0, 1).view_as(images)
