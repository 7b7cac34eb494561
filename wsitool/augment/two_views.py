"""Random views of each patch: the augmentation that SimCLR, BYOL, VICReg, DINO and their kin share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from wsitool.augment.batched import (
    axis_coefficients,
    axis_weights,
    blend_coefficients,
    blur_taps,
    color_batch,
    convolve,
    exact_products,
    gray_matrices,
    mixed,
    turned_crops,
    upload,
)
from wsitool.augment.blur import blur_images, blur_sigmas
from wsitool.augment.color import jitter_factors, solarize
from wsitool.augment.color_image import adjust_images, luminance_image, solarize_image
from wsitool.augment.draw import as_float, chosen, one_thread, pieces
from wsitool.augment.fused import compiled, is_fused
from wsitool.augment.geometry import crop_boxes, crop_image, flip_rotate_image, square_flips
from wsitool.augment.memory import reused_empty
from wsitool.augment.stain import DARKEST, mix_stains, shift_hed, stain_products, stain_shifts
from wsitool.base.parameters import Params, hparam

__all__ = ["Crop", "ViewParams", "crops", "two_views"]

_LEAST_BLUR, _MOST_BLUR = 0.1, 2.0  # pixels, SimCLR's


@dataclass(frozen=True, kw_only=True)
class ViewParams(Params):
    """How two views are made; derive from it to add a method's own parameters or change a default.

    The defaults are SimCLR's (arXiv:2002.05709, appendix A).
    """

    # Full strength leaves a quarter of the views of stained tissue without contrast, white or black. Of what
    # takes contrast away little is left: a blur that grows with the image, where 2 px is a nucleus in a small
    # one; no brightening, as the ground is white already; contrast is only added. The stain is kept, too.
    presets = {
        "histology": {
            "d4": True,
            "hed": 0.05,
            "min_scale": 0.3,
            "solarize_p": 0.0,
            "solarize_p_first": 0.0,
            "strength": 0.4,
            "brightness": 0.4,
            "brighter": 0.0,
            "flatter": 0.0,
            "largest_blur": 0.009,
        }
    }

    min_scale: float = hparam(0.08, "smallest share of the patch a crop keeps", gt=0, le=1)
    strength: float = hparam(
        1.0, "strength s of the colour jitter (brightness*s, .8s, saturation*s, .2s)", ge=0, le=1
    )
    brightness: float = hparam(0.8, "brightness jitter at strength 1", ge=0, le=1)
    brighter: float | None = hparam(
        None, "how much brighter at most at strength 1 (as brightness)", ge=0, le=1
    )
    flatter: float = hparam(0.8, "how much contrast is lost at most at strength 1", ge=0, le=1)
    saturation: float = hparam(0.8, "saturation jitter at strength 1", ge=0, le=1)
    blur_p: float = hparam(0.5, "share of first views that are blurred", ge=0, le=1)
    blur_p_second: float | None = hparam(
        None, "share of second views that are blurred (as the first)", ge=0, le=1
    )
    largest_blur: float | None = hparam(
        None, "its largest deviation as a share of the view's side; without it 2 px", gt=0, le=0.1
    )
    solarize_p: float = hparam(0.0, "share of second views whose bright half is inverted", ge=0, le=1)
    solarize_p_first: float = hparam(0.0, "share of first views whose bright half is inverted", ge=0, le=1)
    d4: bool = hparam(False, "flip and turn by all eight symmetries, not left-right only")
    hed: float = hparam(0.0, "strength of the stain (HED) jitter", ge=0, le=0.5)


@dataclass(frozen=True, kw_only=True)
class Crop:
    """`count` crops of each patch at `size` px (None: the patch's own), of a share of its area in `scale`.

    `blur_p` and `solarize_p` are the shares of them that are blurred and half inverted; None are those of
    first views in the `ViewParams` beside. ValueError for values that cannot be.
    """

    count: int = 1
    size: int | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    blur_p: float | None = None
    solarize_p: float | None = None

    def __post_init__(self) -> None:
        smallest = min(self.count, 1 if self.size is None else self.size)
        if smallest < 1 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                "A Crop needs a count and a size of at least 1 and a scale of two shares in (0, 1], the "
                f"smaller one first, got {self.count}, {self.size} and {self.scale}."
            )


def two_views(patches: Tensor, rng: Generator, params: ViewParams) -> dict[str, Tensor]:
    """Views "a" and "b" of uint8 (B, 3, P, P): float32 (B, 3, P, P) in [0, 1] each.

    What is drawn depends on the generator, the number of patches and `params`, not on the device.
    """
    second_blur = params.blur_p if params.blur_p_second is None else params.blur_p_second
    scale, size = (params.min_scale, 1.0), patches.shape[-1]
    # One after the other from one generator: "a" is the same whatever is drawn for "b".
    first = _draw(rng, patches.shape, params, Crop(scale=scale))
    second_crop = Crop(scale=scale, blur_p=second_blur, solarize_p=params.solarize_p)
    second = _draw(rng, patches.shape, params, second_crop)
    if patches.device.type != "cpu":
        return dict(zip(("a", "b"), _batched(patches, (first, second), size).chunk(2), strict=True))
    return {"a": _views(patches, [first], size), "b": _views(patches, [second], size)}


def crops(patches: Tensor, rng: Generator, kinds: Sequence[Crop], params: ViewParams) -> list[Tensor]:
    """Several crops (Caron et al. 2020, arXiv:2006.09882) of uint8 (B, 3, P, P), each `two_views`' way.

    One float32 (count * B, 3, S, S) in [0, 1] for each of `kinds`: the first crops of all patches, then the
    second ones, and so on. Their scale is their own and not that of `params`. A device gets one copy for
    each size.
    """
    drawn = [[_draw(rng, patches.shape, params, crop) for _ in range(crop.count)] for crop in kinds]
    sizes = [crop.size or patches.shape[-1] for crop in kinds]
    if patches.device.type == "cpu":
        return [_views(patches, views, size) for views, size in zip(drawn, sizes, strict=True)]
    by_number: dict[int, Tensor] = {}
    for size in dict.fromkeys(sizes):
        numbers = [number for number, other in enumerate(sizes) if other == size]
        views = _batched(patches, [each for number in numbers for each in drawn[number]], size)
        parts = views.split_with_sizes([kinds[number].count * len(patches) for number in numbers])
        by_number |= dict(zip(numbers, parts, strict=True))
    return [by_number[number] for number in range(len(kinds))]


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """What was drawn for some patches: the parameters of each operation in turn."""

    boxes: Tensor  # (n, 4)
    element: Tensor  # (n,) symmetry of the square
    alpha: Tensor | None  # (n, 3) factors of the stains
    beta: Tensor | None  # (n, 3) and what is added to them
    factors: Tensor  # (n, 4) of brightness, contrast, saturation and hue
    order: Tensor  # (n, 4) in which they come
    gray: Tensor  # (n,) bool
    sigma: Tensor  # (n,) pixels, 0 without blur
    most_blur: float  # pixels: no sigma is larger
    solarize: Tensor | None  # (n,) bool


def _draw(rng: Generator, shape: torch.Size, params: ViewParams, crop: Crop) -> _Drawn:
    count, s = shape[0], params.strength
    blur_p = params.blur_p if crop.blur_p is None else crop.blur_p
    solarize_p = params.solarize_p_first if crop.solarize_p is None else crop.solarize_p
    boxes = crop_boxes(rng, count, *shape[-2:], scale=crop.scale)
    # Drawn for all patches before any is made, so that neither pieces nor device change what a seed gives.
    any_of_eight = torch.randint(0, 8, (count,), device=rng.device, generator=rng) if params.d4 else None
    # Without `d4` element 0 or 4: as it is, or mirrored left to right.
    element = chosen(rng, count, 0.5).long() * 4 if any_of_eight is None else any_of_eight
    alpha, beta = stain_shifts(rng, count, sigma=params.hed) if params.hed else (None, None)
    brighter = params.brightness if params.brighter is None else params.brighter
    factors, order = jitter_factors(
        rng,
        count,
        brightness=(max(0.0, 1 - params.brightness * s), 1 + brighter * s),
        contrast=(max(0.0, 1 - params.flatter * s), 1 + 0.8 * s),
        saturation=params.saturation * s,
        hue=0.2 * s,
        p=0.8,
    )
    gray = chosen(rng, count, 0.2)
    side = crop.size or shape[-1]
    most = _MOST_BLUR if params.largest_blur is None else max(_LEAST_BLUR, params.largest_blur * side)
    sigma = blur_sigmas(rng, count, (_LEAST_BLUR, most), blur_p)
    solarize = chosen(rng, count, solarize_p) if solarize_p else None
    return _Drawn(
        boxes=boxes,
        element=element,
        alpha=alpha,
        beta=beta,
        factors=factors,
        order=order,
        gray=gray,
        sigma=sigma,
        most_blur=most,
        solarize=solarize,
    )


def _views(patches: Tensor, views: Sequence[_Drawn], size: int) -> Tensor:
    patches = patches.contiguous(memory_format=torch.channels_last)  # as a store gives them: no copy
    # Memory of the views before, if they are gone: a training step's views are made into the same pages
    # again.
    out = reused_empty((len(views) * len(patches), 3, size, size), as_float(patches[:0]))
    with one_thread(), torch.inference_mode():  # which makes short operations a little shorter
        for number, drawn in enumerate(views):
            _on_cpu(patches, drawn, out[number * len(patches) : (number + 1) * len(patches)])
    return out


@dataclass(frozen=True, kw_only=True)
class _Coefficients:
    """What was drawn for all views, as `wsitool.augment.batched` takes it; n = views x patches."""

    axes: Tensor  # (2 n, 2 + P): rows, the views of a patch together, then columns
    numbers: Tensor  # (S,)
    transposed: Tensor  # (n,), from here on all first views before all second
    products: Tensor  # (n, 6, 3, 3)
    of_means: Tensor  # (n, 6, 3, 3)
    hue: Tensor  # (n, 2, 3)
    gray: Tensor  # (n, 3, 3)
    taps: Tensor  # (3 n, K)
    solarized: Tensor  # (n,)
    stains: Tensor  # (n, 3, 3), or (0,) where none is changed
    stain_shift: Tensor  # (n, 3, 1), or (0,)

    def to(self, device: torch.device) -> _Coefficients:
        """The same on `device`, by one copy."""
        names = [field.name for field in fields(self)]
        parts = upload([getattr(self, name) for name in names], device)
        return _Coefficients(**dict(zip(names, parts, strict=True)))


def _coefficients(views: Sequence[_Drawn], extent: int, size: int, scale: float) -> _Coefficients:
    """Of views of `size` px of patches of `extent` px whose white is 1 / `scale`."""

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(drawn, name) for drawn in views])

    boxes = joined("boxes")
    flip_rows, flip_columns, transposed = square_flips(joined("element"))
    rows = axis_coefficients(boxes[:, 0], boxes[:, 2], flip_rows, extent=extent, size=size)
    columns = axis_coefficients(boxes[:, 1], boxes[:, 3], flip_columns, extent=extent, size=size)
    by_patch = torch.arange(len(boxes)).view(len(views), -1).T.reshape(-1)
    products, of_means, hue = blend_coefficients(joined("factors"), joined("order"))
    stains = shift = torch.zeros(0)
    # Whatever comes first makes shares of bytes as well.
    if views[0].alpha is not None:
        stains, shift = stain_products(joined("alpha"), joined("beta"))
        shift = shift + stains.sum(dim=2, keepdim=True) * math.log(scale)
    else:
        products[:, 0] *= scale
        of_means[:, 0] *= scale
    nowhere = torch.zeros(len(views[0].gray), dtype=torch.bool)
    solarized = torch.cat([nowhere if drawn.solarize is None else drawn.solarize for drawn in views])
    return _Coefficients(
        axes=torch.cat((rows[by_patch], columns)),
        numbers=torch.arange(1.0, size + 1),
        transposed=transposed.float(),
        products=products,
        of_means=of_means,
        hue=hue,
        gray=gray_matrices(joined("gray")),
        # Of one length where they are compiled: another would be compiled anew.
        taps=blur_taps(joined("sigma"), most=size - 1, least=views[0].most_blur if is_fused() else 0.0),
        solarized=solarized.float(),
        stains=stains,
        stain_shift=shift,
    )


def _batched(patches: Tensor, views: Sequence[_Drawn], size: int) -> Tensor:
    """All views (V * B, 3, S, S) of all patches together, every patch's first before the second of any.

    What the host must know to leave an operation out is known before the coefficients go up.
    """
    scale = 1.0 if patches.is_floating_point() else 1 / 255
    drawn = _coefficients(views, patches.shape[-1], size, scale)
    turns, solarizes = bool(drawn.transposed.any()), bool(drawn.solarized.any())
    drawn = drawn.to(patches.device)
    arithmetic = compiled(_arithmetic)
    with exact_products(), torch.no_grad():
        return arithmetic(patches, drawn, turns=turns, solarizes=solarizes, darkest=DARKEST / scale)


def _arithmetic(
    patches: Tensor, drawn: _Coefficients, *, turns: bool, solarizes: bool, darkest: float
) -> Tensor:
    rows, columns = axis_weights(drawn.axes, drawn.numbers).chunk(2)
    images = turned_crops(patches, rows, columns, drawn.transposed if turns else None)
    if len(drawn.stains):
        images = mix_stains(images, drawn.stains, drawn.stain_shift, darkest=darkest)
    images = color_batch(images, drawn.products, drawn.of_means, drawn.hue)
    images = convolve(mixed(images, drawn.gray), drawn.taps)
    return solarize(images, drawn.solarized > 0) if solarizes else images


def _on_cpu(patches: Tensor, drawn: _Drawn, out: Tensor) -> None:
    """Some patches at a time through all operations: so few that what lies between them stays in a core's own
    cache, and as many as fit there, since with small patches the calls are what takes the time."""
    boxes, element = drawn.boxes.tolist(), drawn.element.tolist()
    factors, order = drawn.factors.tolist(), drawn.order.tolist()
    gray, sigma = drawn.gray.tolist(), drawn.sigma.tolist()
    for piece in pieces(out):
        rows, views = range(piece.start, piece.stop), out[piece]
        images = [_cut(patches, row, boxes[row], element[row], drawn, out.shape[-1]) for row in rows]
        adjust_images(images, views, factors[piece], order[piece])
        # Grey ones are blurred below, as one channel.
        blur_images(views, [0.0 if gray[row] else sigma[row] for row in rows])
        for view, row in zip(views, rows, strict=True):
            if gray[row]:
                luminance_image(view, out=view[0])
                blur_images(view[None, :1], sigma[row : row + 1])  # a third of the work
                view[1:] = view[0]
    if drawn.solarize is not None:
        for row in drawn.solarize.nonzero().squeeze(1).tolist():
            solarize_image(out[row])


def _cut(patches: Tensor, row: int, box: list[int], element: int, drawn: _Drawn, size: int) -> Tensor:
    """Patch `row` cropped, turned and stained: (3, S, S)."""
    image = flip_rotate_image(crop_image(patches[row : row + 1], box, size), element)
    if drawn.alpha is None or drawn.beta is None:
        return image[0]
    return shift_hed(image, drawn.alpha[row : row + 1], drawn.beta[row : row + 1])[0]
