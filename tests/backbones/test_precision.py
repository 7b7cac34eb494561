"""Gradients in bfloat16 on the CPU, beside those in float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsitool.backbones.precision import Precision, _is_in_reach


@pytest.mark.parametrize(
    ("size", "layer"),
    [
        # Both were garbage of up to 1e34 times the gradient with torch 2.14 and oneDNN.
        (1, nn.Conv2d(256, 512, 3, stride=2, padding=1, bias=False)),
        (1, nn.Conv2d(64, 64, 5, padding=2, bias=False)),
        (2, nn.Conv2d(64, 64, 7, padding="same", bias=False)),
        (6, nn.Conv2d(64, 64, 3, padding=1, bias=False)),
    ],
)
def test_gradients_are_those_of_float32_but_for_rounding(size: int, layer: nn.Conv2d) -> None:
    network = nn.Sequential(nn.Identity(), layer)
    torch.manual_seed(0)
    images = torch.randn(16, layer.in_channels, size, size)
    slope = torch.randn(layer(images).shape)
    gradients = []
    for bits in ("32", "bf16"):
        precision = Precision(bits, torch.device("cpu"))
        layer.zero_grad()
        with precision.guarded(network):
            with precision.autocast():
                # What memory held before shows in what is not written.
                junk = [torch.full((3_000_000,), 3e17) for _ in range(3)]
                del junk
                made = network(images)
            assert (made.dtype == torch.bfloat16) == (bits == "bf16" and size == 6)
            precision.backward((made.float() * slope).sum())
        assert layer.weight.grad is not None
        gradients.append(layer.weight.grad.clone())
    assert (gradients[0] - gradients[1]).abs().max() < 0.01 * gradients[0].abs().max()
    assert not layer._forward_hooks and not layer._forward_pre_hooks


@pytest.mark.parametrize(
    ("least", "options"),
    [
        (1, {"kernel_size": 1}),
        (2, {"kernel_size": 3, "padding": 1}),
        # Of 2 values the kernel stands at -1 only, and its first tap over nothing.
        (3, {"kernel_size": 3, "padding": 1, "stride": 2}),
        (3, {"kernel_size": 3, "padding": 2, "dilation": 2}),
    ],
)
def test_from_which_size_each_tap_has_a_value(least: int, options: dict[str, int]) -> None:
    layer = nn.Conv2d(1, 1, **options)  # type: ignore[arg-type]
    assert [_is_in_reach(layer, (size, 9)) for size in range(1, 6)] == [size >= least for size in range(1, 6)]
