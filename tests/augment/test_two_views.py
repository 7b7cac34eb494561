"""The shared two-view recipe: its presets, its asymmetry, and solarisation against torchvision's."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Generator, Tensor

from wsitool.api import Params, ViewParams, two_views
from wsitool.methods.registry import load_method

recipe = sys.modules[two_views.__module__]  # the package's attribute of that name is the function

# Crop, flip left-right, and nothing else.
PLAIN: dict[str, Any] = {"strength": 0.0, "blur_p": 0.0, "solarize_p": 0.0}
PATCHES = torch.randint(0, 256, (16, 3, 40, 40), dtype=torch.uint8, generator=Generator().manual_seed(0))


def _two(**values: Any) -> dict[str, Tensor]:
    return two_views(PATCHES, Generator().manual_seed(3), ViewParams(**values))


def test_views_are_float_of_the_patches_size_and_differ() -> None:
    views = _two()
    assert set(views) == {"a", "b"}
    for view in views.values():
        assert view.shape == PATCHES.shape and view.dtype == torch.float32
        assert float(view.min()) >= 0 and float(view.max()) <= 1
    assert not torch.equal(views["a"], views["b"])


def test_views_can_be_trained_on_though_made_in_inference_mode() -> None:
    weight = torch.ones((), requires_grad=True)
    (_two()["a"] * weight).sum().backward()
    assert weight.grad is not None and float(weight.grad) > 0


def test_solarising_inverts_the_bright_half_of_second_views_as_torchvision() -> None:
    plain, solarized = _two(**PLAIN), _two(**PLAIN | {"solarize_p": 1.0})
    assert torch.equal(plain["a"], solarized["a"])
    assert torch.equal(tv.solarize(plain["b"], 0.5), solarized["b"])


def test_the_share_of_solarised_views_is_the_one_asked_for() -> None:
    many = PATCHES.repeat(64, 1, 1, 1)[:, :, :8, :8]
    params = ViewParams(**PLAIN | {"solarize_p": 0.25})
    changed = two_views(many, Generator().manual_seed(1), params)["b"].amax(dim=(1, 2, 3)) <= 0.5
    assert float(changed.float().mean()) == pytest.approx(0.25, abs=0.05)


def test_second_views_have_their_own_blur() -> None:
    def detail(view: Tensor) -> float:
        return float(view.diff(dim=-1).abs().mean())

    one_sharp = _two(strength=0.0, blur_p=1.0, blur_p_second=0.0, min_scale=1.0)
    assert detail(one_sharp["b"]) > 1.5 * detail(one_sharp["a"])
    both = _two(strength=0.0, blur_p=1.0, min_scale=1.0)
    assert detail(both["b"]) < 1.5 * detail(both["a"])


@pytest.mark.parametrize("name", ["byol", "simsiam", "vicreg", "barlow-twins", "moco"])
def test_methods_change_defaults_only_and_histology_never_solarises(name: str) -> None:
    kind = load_method(name).params_type
    assert issubclass(kind, ViewParams)
    shared = {field.name: field for field in dataclasses.fields(ViewParams)}
    own = {spec.name: spec for spec in kind.hparams()}
    for spec in ViewParams.hparams():
        assert dataclasses.replace(own[spec.name], default=spec.default, help=spec.help) == spec
    assert set(shared) < set(own)
    histology: Any = kind.from_preset("histology", {})
    assert histology.d4 and histology.hed > 0 and histology.min_scale == 0.3 and not histology.solarize_p
    assert histology.strength == histology.brightness == 0.4
    assert kind.from_preset("paper", {}) == kind()
    assert issubclass(kind, Params)


def test_the_histology_preset_leaves_tissue_its_contrast() -> None:
    # Bright stroma with nuclei, as most of a breast section: a third of the way to white.
    rng = torch.Generator().manual_seed(0)
    patches = torch.tensor([225.0, 185.0, 210.0]).view(1, 3, 1, 1) + 6 * torch.randn(
        300, 3, 48, 48, generator=rng
    )
    nuclei = torch.rand(300, 1, 12, 12, generator=rng).repeat_interleave(4, 2).repeat_interleave(4, 3) < 0.12
    patches = torch.where(nuclei, torch.tensor([130.0, 90.0, 160.0]).view(1, 3, 1, 1), patches)
    patches = patches.clamp(0, 255).to(torch.uint8)

    def without_contrast(params: ViewParams) -> float:
        views = two_views(patches, torch.Generator().manual_seed(1), params)["a"]
        gray = 255 * (views * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1)
        return float((gray.flatten(1).std(1) < 5).float().mean())

    assert without_contrast(ViewParams(d4=True, hed=0.05, min_scale=0.2)) > 0.05
    assert without_contrast(ViewParams.from_preset("histology", {})) < 0.01
