"""The views of a whole batch as one compiled graph: the same numbers, without a break."""

from __future__ import annotations

import sys

import pytest
import torch
from accelerator import DEVICE
from torch import Generator, Tensor

from wsitool import augment
from wsitool.augment.fused import fused
from wsitool.testing.stores import example_patches

recipe = sys.modules[augment.two_views.__module__]  # the package's attribute of that name is the function


def _both(backend: str, params: augment.ViewParams, seed: int = 3) -> tuple[Tensor, Tensor]:
    patches = torch.from_numpy(example_patches(8, 32)).permute(0, 3, 1, 2)
    crops = [augment.Crop(scale=(0.3, 1.0))] * 2

    def drawn() -> list[object]:
        rng = Generator().manual_seed(seed)
        return [recipe._draw(rng, patches.shape, params, crop) for crop in crops]

    eager = recipe._batched(patches, drawn(), 32)
    with fused(backend):
        return eager, recipe._batched(patches, drawn(), 32)


@pytest.mark.parametrize("preset", ["paper", "histology"])
def test_one_graph_gives_the_views_of_single_operations(preset: str) -> None:
    torch._dynamo.utils.counters.clear()
    params = augment.ViewParams.from_preset(preset, {})
    for seed in range(4):  # other lengths of the blur, and nothing compiled anew
        eager, together = _both("aot_eager", params, seed)
        assert torch.allclose(eager, together, atol=1e-5)
    assert together.is_contiguous(memory_format=torch.channels_last) and together.dtype == torch.float32
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] <= 2, counters


@pytest.mark.slow
def test_compiled_kernels_give_the_views_of_single_operations() -> None:
    for preset in ("paper", "histology"):
        eager, together = _both("inductor", augment.ViewParams.from_preset(preset, {}))
        assert torch.allclose(eager, together, atol=1e-5), preset


def test_views_of_a_cpu_stay_as_they_are() -> None:
    patches = torch.from_numpy(example_patches(4, 32)).permute(0, 3, 1, 2)
    plain = augment.two_views(patches, Generator().manual_seed(0), augment.ViewParams())
    with fused():
        same = augment.two_views(patches, Generator().manual_seed(0), augment.ViewParams())
    assert all(torch.equal(plain[name], same[name]) for name in plain)


def test_on_a_device_it_is_one_graph_too() -> None:
    patches = torch.empty((8, 32, 32, 3), dtype=torch.uint8, device=DEVICE).permute(0, 3, 1, 2)
    with fused("aot_eager"):
        views = augment.two_views(patches, Generator().manual_seed(0), augment.ViewParams(solarize_p=0.5))
    assert views["b"].shape == (8, 3, 32, 32) and views["b"].device == DEVICE
