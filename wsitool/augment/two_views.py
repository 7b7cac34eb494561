"""Two random views of each patch: the augmentation that SimCLR, BYOL, VICReg and their kin share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from wsitool.augment.blur import gaussian_blur
from wsitool.augment.colour import color_jitter, random_grayscale
from wsitool.augment.draw import chosen, in_pieces
from wsitool.augment.geometry import random_d4, random_hflip, random_resized_crop
from wsitool.augment.stain import hed_jitter
from wsitool.params import Params, hparam

__all__ = ["ViewParams", "two_views"]


@dataclass(frozen=True, kw_only=True)
class ViewParams(Params):
    """How two views are made; derive from it to add a method's own parameters or change a default.

    The defaults are SimCLR's (arXiv:2002.05709, appendix A).
    """

    presets = {"histology": {"d4": True, "hed": 0.05, "min_scale": 0.2, "solarize_p": 0.0}}

    min_scale: float = hparam(0.08, "smallest share of the patch a crop keeps", gt=0, le=1)
    strength: float = hparam(1.0, "strength s of the colour jitter (.8s, .8s, saturation*s, .2s)", ge=0, le=1)
    saturation: float = hparam(0.8, "saturation jitter at strength 1", ge=0, le=1)
    blur_p: float = hparam(0.5, "share of first views that are blurred", ge=0, le=1)
    blur_p_second: float | None = hparam(
        None, "share of second views that are blurred (as the first)", ge=0, le=1
    )
    solarize_p: float = hparam(0.0, "share of second views whose bright half is inverted", ge=0, le=1)
    d4: bool = hparam(False, "flip and turn by all eight symmetries, not left-right only")
    hed: float = hparam(0.0, "strength of the stain (HED) jitter", ge=0, le=0.5)


def two_views(patches: Tensor, rng: Generator, params: ViewParams) -> dict[str, Tensor]:
    """Views "a" and "b" of uint8 (B, 3, P, P): float32 (B, 3, P, P) in [0, 1] each."""
    second_blur = params.blur_p if params.blur_p_second is None else params.blur_p_second

    def first(part: Tensor) -> Tensor:
        return _view(part, rng, params, blur_p=params.blur_p, solarize_p=0.0)

    def second(part: Tensor) -> Tensor:
        return _view(part, rng, params, blur_p=second_blur, solarize_p=params.solarize_p)

    return {"a": in_pieces(patches, first), "b": in_pieces(patches, second)}


def _view(patches: Tensor, rng: Generator, params: ViewParams, *, blur_p: float, solarize_p: float) -> Tensor:
    s = params.strength
    images = random_resized_crop(patches, rng, size=patches.shape[-1], scale=(params.min_scale, 1.0))
    images = random_d4(images, rng) if params.d4 else random_hflip(images, rng)
    if params.hed:
        images = hed_jitter(images, rng, sigma=params.hed)
    images = color_jitter(
        images,
        rng,
        brightness=0.8 * s,
        contrast=0.8 * s,
        saturation=params.saturation * s,
        hue=0.2 * s,
        p=0.8,
    )
    images = random_grayscale(images, rng, p=0.2, inplace=True)
    images = gaussian_blur(images, rng, sigma=(0.1, 2.0), p=blur_p, inplace=True)
    return _solarize(images, chosen(rng, len(images), solarize_p)) if solarize_p else images


def _solarize(images: Tensor, which: Tensor) -> Tensor:
    """Invert values of at least 0.5 in the images where `which` (B,) is true."""
    inverted = (images >= 0.5) & which.to(images.device)[:, None, None, None]
    return torch.where(inverted, 1 - images, images)
