"""Gradients in bfloat16 on the CPU, beside those in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from patch_stores import small_store
from torch import nn

from wsitool.backbones.precision import Precision, _is_in_reach, slow_precision
from wsitool.cli import main


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


@pytest.mark.parametrize(
    ("has", "name", "device", "told"),
    [
        ({"avx2": True, "avx512_bf16": False}, "bf16", "cpu", True),
        ({"avx512_bf16": True}, "bf16", "cpu", False),
        ({"amx_bf16": True}, "bf16", "cpu", False),
        ({"avx2": True}, "32", "cpu", False),
        ({"avx2": True}, "bf16", "cuda", False),
        ({"avx2": True, "architecture": "aarch64"}, "bf16", "cpu", False),
    ],
)
def test_bits_that_a_cpu_has_no_instructions_for_are_told(
    has: dict[str, object], name: str, device: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"architecture": "x86_64", **has}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert ("many times slower" in slow_precision(name, device)) == told


def test_pretrain_and_classify_warn_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"architecture": "x86_64", "avx2": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    for name in ("a", "b"):
        small_store(tmp_path / "stores" / f"{name}.h5", ("x", "y", "x", "y"))
    common = f"{tmp_path}/stores --backbone resnet18 --image-size 16 --epochs 1 --batch-size 4 --no-report"
    for words in (
        "pretrain {} --precision bf16 --method rotation --init random",
        "classify {} --precision bf16 --encoder random --folds 2 --head finetune --validation 0.5",
    ):
        told = CliRunner().invoke(
            main, [*words.format(common).split(), "--out", str(tmp_path / words.split()[0])]
        )
        assert told.exit_code == 0 and told.stderr.count("many times slower here than 32") == 1, told.output
