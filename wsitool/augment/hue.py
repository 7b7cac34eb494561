"""A turn of the hue, in as few passes over memory as arithmetic allows; on any device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NO_CHROMA", "turn_hue"]

NO_CHROMA = 1e-8
# Turns: the hue where red is lowest, and those where green and blue are highest.
_OPPOSITE = (1 / 2, 1 / 3, 2 / 3)


def turn_hue(x: Tensor, turns: Tensor, no_chroma: Tensor) -> None:
    """Turn the hue of (n, 3, H, W) in place by `turns` (n, 1, 1) in [0, 1).

    HSV's value and saturation stay; a chroma below `no_chroma` (n, 1, 1) is none.

    Without branches, which cost ten times as much as arithmetic here. With the channels scaled to [0, 1] by
    chroma, the hue's distance from red is 1 + g + b - r sixths of a turn whichever channel is largest, and it
    lies on blue's side where b > g; each channel is then a trapezoid of its distance from the new hue.
    """
    red, green, blue = x.unbind(1)
    low, chroma, sixths, hue = torch.empty((4, *red.shape), dtype=x.dtype, device=x.device).unbind(0)
    torch.minimum(torch.minimum(red, green, out=low), blue, out=low)
    torch.maximum(torch.maximum(red, green, out=chroma), blue, out=chroma).sub_(low)
    torch.add(green, blue, out=sixths).sub_(red).sub_(low).add_(chroma)
    torch.maximum(chroma, no_chroma, out=red)
    torch.lt(green, blue, out=hue)  # 1 on blue's side, where the turn is nearly whole
    torch.addcdiv(hue, sixths, red, value=-1 / 6, out=hue).abs_().add_(turns).frac_()
    torch.sub(hue[:, None], x.new_tensor(_OPPOSITE)[:, None, None], out=x).abs_().clamp_(1 / 6, 1 / 3)
    torch.addcmul(torch.sub(low, chroma, out=sixths), red, chroma, value=6, out=red)
    low.add_(chroma, alpha=2)
    torch.addcmul(low, green, chroma, value=-6, out=green)
    torch.addcmul(low, blue, chroma, value=-6, out=blue)
