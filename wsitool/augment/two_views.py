"""Two random views of each patch: the augmentation that SimCLR, BYOL, VICReg and their kin share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from wsitool.augment.blur import blur, blur_images, blur_sigmas
from wsitool.augment.color import adjust_color, grayscale, jitter_factors
from wsitool.augment.color_image import adjust_images, luminance_image
from wsitool.augment.draw import as_float, chosen, one_thread, pieces
from wsitool.augment.geometry import crop_boxes, crop_image, flip_rotate, flip_rotate_image, resized_crop
from wsitool.augment.memory import reused_empty
from wsitool.augment.stain import shift_hed, stain_shifts
from wsitool.base.parameters import Params, hparam

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
    """Views "a" and "b" of uint8 (B, 3, P, P): float32 (B, 3, P, P) in [0, 1] each.

    What is drawn depends on the generator, the number of patches and `params`, not on the device.
    """
    second_blur = params.blur_p if params.blur_p_second is None else params.blur_p_second
    first = _views(patches, rng, params, blur_p=params.blur_p, solarize_p=0.0)
    return {"a": first, "b": _views(patches, rng, params, blur_p=second_blur, solarize_p=params.solarize_p)}


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """What was drawn for some patches: the parameters of each operation in turn."""

    boxes: Tensor  # (n, 4)
    element: Tensor  # (n,) symmetry of the square
    stain: tuple[Tensor, Tensor] | None  # (n, 3) factors and shifts
    color: tuple[Tensor, Tensor]  # (n, 4) factors and their order
    gray: Tensor  # (n,) bool
    sigma: Tensor  # (n,) pixels, 0 without blur
    solarize: Tensor | None  # (n,) bool


def _draw(rng: Generator, shape: torch.Size, params: ViewParams, blur_p: float, solarize_p: float) -> _Drawn:
    count, s = shape[0], params.strength
    boxes = crop_boxes(rng, count, *shape[-2:], scale=(params.min_scale, 1.0))
    any_of_eight = torch.randint(0, 8, (count,), device=rng.device, generator=rng) if params.d4 else None
    element = chosen(rng, count, 0.5).long() * 4 if any_of_eight is None else any_of_eight
    stain = stain_shifts(rng, count, sigma=params.hed) if params.hed else None
    jitter = {"brightness": 0.8 * s, "contrast": 0.8 * s, "saturation": params.saturation * s, "hue": 0.2 * s}
    color = jitter_factors(rng, count, **jitter, p=0.8)
    gray = chosen(rng, count, 0.2)
    sigma = blur_sigmas(rng, count, (0.1, 2.0), blur_p)
    solarize = chosen(rng, count, solarize_p) if solarize_p else None
    return _Drawn(
        boxes=boxes,
        element=element,
        stain=stain,
        color=color,
        gray=gray,
        sigma=sigma,
        solarize=solarize,
    )


def _views(
    patches: Tensor, rng: Generator, params: ViewParams, *, blur_p: float, solarize_p: float
) -> Tensor:
    drawn = _draw(rng, patches.shape, params, blur_p, solarize_p)
    if patches.device.type != "cpu":
        return _together(patches, drawn)
    patches = patches.contiguous(memory_format=torch.channels_last)  # as a store gives them: no copy
    size = patches.shape[-1]
    out = reused_empty((len(patches), 3, size, size), as_float(patches[:0]))
    with one_thread(), torch.inference_mode():  # which makes short operations a little shorter
        _on_cpu(patches, drawn, out)
    return out


def _together(patches: Tensor, drawn: _Drawn) -> Tensor:
    """All patches in one call of each operation, as other devices than CPUs need it."""
    images = flip_rotate(resized_crop(patches, drawn.boxes, patches.shape[-1]), drawn.element)
    images = images if drawn.stain is None else shift_hed(images, *drawn.stain)
    images = grayscale(adjust_color(images, *drawn.color), drawn.gray, inplace=True)
    images = blur(images, drawn.sigma, inplace=True)
    return images if drawn.solarize is None else _solarize(images, drawn.solarize)


def _on_cpu(patches: Tensor, drawn: _Drawn, out: Tensor) -> None:
    """Some patches at a time through all operations: so few that what lies between them stays in a core's own
    cache, and as many as fit there, since with small patches the calls are what takes the time."""
    boxes, element = drawn.boxes.tolist(), drawn.element.tolist()
    factors, order = drawn.color[0].tolist(), drawn.color[1].tolist()
    gray, sigma = drawn.gray.tolist(), drawn.sigma.tolist()
    for piece in pieces(out):
        rows, views = range(piece.start, piece.stop), out[piece]
        images = [_cut(patches, row, boxes[row], element[row], drawn.stain) for row in rows]
        adjust_images(images, views, factors[piece], order[piece])
        blur_images(views, [0.0 if gray[row] else sigma[row] for row in rows])
        for view, row in zip(views, rows, strict=True):
            if gray[row]:
                luminance_image(view, out=view[0])
                blur_images(view[None, :1], sigma[row : row + 1])  # a third of the work
                view[1:] = view[0]
    if drawn.solarize is not None:
        out.copy_(_solarize(out, drawn.solarize))


def _cut(
    patches: Tensor, row: int, box: list[int], element: int, stain: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Patch `row` cropped, turned and stained: (3, P, P)."""
    image = flip_rotate_image(crop_image(patches[row : row + 1], box, patches.shape[-1]), element)
    if stain is None:
        return image[0]
    alpha, beta = stain
    return shift_hed(image, alpha[row : row + 1], beta[row : row + 1])[0]


def _solarize(images: Tensor, which: Tensor) -> Tensor:
    """Invert values of at least 0.5 in the images where `which` (B,) is true."""
    inverted = (images >= 0.5) & which.to(images.device)[:, None, None, None]
    return torch.where(inverted, 1 - images, images)
