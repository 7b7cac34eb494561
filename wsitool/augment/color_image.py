"""The colours of images on a CPU, in as few passes over their memory as the clamps allow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "GRAY",
    "LEFT_ALONE",
    "NO_CHROMA",
    "adjust_images",
    "gray_image",
    "luminance_image",
    "solarize_image",
]

GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as torchvision
LEFT_ALONE = (1.0, 1.0, 1.0, 0.0)  # factors of brightness, contrast, saturation and hue that change nothing
NO_CHROMA = 1e-8

_WHITE = sum(GRAY)  # the luminance of (1, 1, 1)
_HUE = 3  # among the four kinds of operation
# Turns: the hue where red is lowest, and those where green and blue are highest.
_OPPOSITE = torch.tensor([1 / 2, 1 / 3, 2 / 3])[:, None, None]


def adjust_images(
    images: Sequence[Tensor], out: Tensor, factors: Sequence[Sequence[float]], orders: Sequence[Sequence[int]]
) -> None:
    """Fill float `out` (n, 3, H, W) with uint8 or float `images`, (3, H, W) each, their colours adjusted.

    `factors` and `orders` are rows of `adjust_color`'s. Hue, which takes a dozen operations and comes once
    in every order, is turned in all images at once when what comes before it is done in each: with small
    images the number of operations is what takes the time.
    """
    values = []
    for image, target, kinds, factor in zip(images, out, orders, factors, strict=True):
        target.copy_(image)
        value = _Values(target, 1 / 255 if image.dtype == torch.uint8 else 1.0)
        value.apply(kinds[: kinds.index(_HUE)], factor)
        values.append(value)
    _turn_hues(values, out, [factor[_HUE] for factor in factors])
    for value, kinds, factor in zip(values, orders, factors, strict=True):
        value.apply(kinds[kinds.index(_HUE) + 1 :], factor)
        value.settle()


def gray_image(image: Tensor) -> None:
    """Replace float `image` (3, H, W) by its luminance, in three equal channels."""
    luminance_image(image, out=image[0])
    image[1:] = image[0]


def luminance_image(image: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The luminance (H, W) of (3, H, W), into `out` (may be the first channel) if given.

    ITU-R 601-2 weights, as torchvision's; the other channels of `image` are not changed.
    """
    gray = torch.mul(image[0], GRAY[0], out=out)
    return gray.add_(image[1], alpha=GRAY[1]).add_(image[2], alpha=GRAY[2])


def solarize_image(image: Tensor) -> None:
    """Invert what is at least 0.5 of float `image`, in place."""
    image.copy_(torch.where(image >= 0.5, 1 - image, image))


class _Values:
    """An image whose values are gain * x + grey * luminance(x) + shift of the x in memory.

    Brightness, contrast and saturation only change these three numbers, and memory is passed over where
    values must be clamped: factors up to 1 draw values together and need no clamp. The gain is never
    negative.
    """

    def __init__(self, x: Tensor, gain: float) -> None:
        self.x, self._gain, self._gray, self._shift = x, gain, 0.0, 0.0
        self._mean_x: float | None = None  # mean luminance of x

    def apply(self, kinds: Sequence[int], factors: Sequence[float]) -> None:
        """Do the operations of these kinds, in this order and without hue, each with its own of `factors`."""
        for kind in kinds:
            if factors[kind] != LEFT_ALONE[kind]:
                _OPERATIONS[kind](self, factors[kind])

    def brighten(self, factor: float) -> None:
        self._scale(factor)
        self._clamp_after(factor)

    def contrast(self, factor: float) -> None:
        if self._mean_x is None:
            means = self.x.flatten(1).mean(dim=1).tolist()
            self._mean_x = sum(weight * mean for weight, mean in zip(GRAY, means, strict=True))
        mean = (self._gain + self._gray * _WHITE) * self._mean_x + self._shift * _WHITE
        self._scale(factor)
        self._shift += (1 - factor) * mean
        self._clamp_after(factor)

    def saturate(self, factor: float) -> None:
        gray, shift = self._gain + self._gray * _WHITE, self._shift * _WHITE  # of the present luminance
        self._scale(factor)
        self._gray += (1 - factor) * gray
        self._shift += (1 - factor) * shift
        self._clamp_after(factor)

    def before_hue(self) -> float:
        """Make memory's own hue the one to turn; returns the least chroma in memory that counts as one."""
        # A gain and a shift of all channels alike commute with a turn of the hue.
        if self._gray:
            self.settle()
        self._mean_x = None
        return NO_CHROMA / max(self._gain, NO_CHROMA)

    def settle(self) -> None:
        """Bring memory up to date."""
        x = self.x
        if not self._gray and not self._shift and self._gain == 1:
            return
        shift = x.new_tensor(self._shift)
        if self._gray:
            plane = torch.add(shift, x[0], alpha=self._gray * GRAY[0])
            plane.add_(x[1], alpha=self._gray * GRAY[1]).add_(x[2], alpha=self._gray * GRAY[2])
            torch.add(plane, x, alpha=self._gain, out=x)
        else:
            torch.add(shift, x, alpha=self._gain, out=x)
        self._gain, self._gray, self._shift = 1.0, 0.0, 0.0
        self._mean_x = None

    def _scale(self, factor: float) -> None:
        self._gain, self._gray, self._shift = self._gain * factor, self._gray * factor, self._shift * factor

    def _clamp_after(self, factor: float) -> None:
        if not 0 <= factor <= 1:
            self.settle()
            self.x.clamp_(0, 1)


_OPERATIONS = (_Values.brighten, _Values.contrast, _Values.saturate)


def _turn_hues(values: Sequence[_Values], images: Tensor, turns: Sequence[float]) -> None:
    """Turn the hue of each image (n, 3, H, W) by its own `turns`, in place."""
    rows = [row for row, turn in enumerate(turns) if turn != LEFT_ALONE[_HUE]]
    if not rows:
        return
    no_chroma, turn = images.new_tensor(
        [[values[row].before_hue() for row in rows], [turns[row] % 1 for row in rows]]
    )[..., None, None]
    if len(rows) == len(images):
        _turn_hue(images, turn, no_chroma)
        return
    index = torch.tensor(rows)
    turned = images[index]
    _turn_hue(turned, turn, no_chroma)
    images[index] = turned


def _turn_hue(x: Tensor, turns: Tensor, no_chroma: Tensor) -> None:
    """Turn the hue of (n, 3, H, W) in place by `turns` (n, 1, 1) in [0, 1).

    HSV's value and saturation stay; a chroma below `no_chroma` (n, 1, 1) is none.

    Without branches, which cost ten times as much as arithmetic here. With the channels scaled to [0, 1] by
    chroma, the hue's distance from red is 1 + g + b - r sixths of a turn whichever channel is largest, and it
    lies on blue's side where b > g; each channel is then a trapezoid of its distance from the new hue.
    """
    red, green, blue = x.unbind(1)
    low, chroma, sixths, hue = torch.empty((4, *red.shape), dtype=x.dtype).unbind(0)
    torch.minimum(torch.minimum(red, green, out=low), blue, out=low)
    torch.maximum(torch.maximum(red, green, out=chroma), blue, out=chroma).sub_(low)
    torch.add(green, blue, out=sixths).sub_(red).sub_(low).add_(chroma)
    torch.maximum(chroma, no_chroma, out=red)
    torch.lt(green, blue, out=hue)  # 1 on blue's side, where the turn is nearly whole
    torch.addcdiv(hue, sixths, red, value=-1 / 6, out=hue).abs_().add_(turns).frac_()
    torch.sub(hue[:, None], _OPPOSITE, out=x).abs_().clamp_(1 / 6, 1 / 3)
    torch.addcmul(torch.sub(low, chroma, out=sixths), red, chroma, value=6, out=red)
    low.add_(chroma, alpha=2)
    torch.addcmul(low, green, chroma, value=-6, out=green)
    torch.addcmul(low, blue, chroma, value=-6, out=blue)
