"""The shared two-view recipe: its presets, its asymmetry, and solarisation against torchvision's."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Generator, Tensor

from wsitool.api import Crop, Params, ViewParams, crops, solarize, two_views
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


@pytest.mark.parametrize("images", [PATCHES, PATCHES.float() / 255], ids=["bytes", "floats"])
def test_solarize_is_torchvisions_where_it_is_asked_for(images: Tensor) -> None:
    before, which = images.clone(), torch.arange(16) % 2 == 0
    out, floats = solarize(images, which), PATCHES.float() / 255
    assert torch.equal(out[::2], tv.solarize(floats[::2], 0.5)) and torch.equal(out[1::2], floats[1::2])
    assert torch.equal(images, before)


def test_first_views_are_solarised_where_a_method_says_so() -> None:
    plain, solarized = _two(**PLAIN), _two(**PLAIN | {"solarize_p_first": 1.0})
    assert torch.equal(tv.solarize(plain["a"], 0.5), solarized["a"])
    assert (
        load_method("vicreg").params_type().to_dict()["solarize_p_first"] == 0.1
    )  # its appendix, both views


def test_crops_are_resized_crops_of_torchvision_in_the_order_asked_for() -> None:
    gray = PATCHES[:, :1].expand(-1, 3, -1, -1).contiguous()  # of which greyscale leaves everything
    asked = [Crop(count=2, scale=(0.4, 1.0)), Crop(count=3, size=17, scale=(0.05, 0.4))]
    made = crops(gray, Generator().manual_seed(3), asked, ViewParams(**PLAIN))
    assert [view.shape for view in made] == [(32, 3, 40, 40), (48, 3, 17, 17)]
    rng = Generator().manual_seed(3)
    for view, crop in zip(made, asked, strict=True):
        for part in view.chunk(crop.count):
            drawn = recipe._draw(rng, gray.shape, ViewParams(**PLAIN), crop)
            shares = drawn.boxes[:, 2] * drawn.boxes[:, 3] / 1600
            assert float(shares.min()) > 0.8 * crop.scale[0] and float(shares.max()) < 1.2 * crop.scale[1]
            for image, patch, box, element in zip(part, gray, drawn.boxes, drawn.element, strict=True):
                expected = tv.resized_crop(patch, *box.tolist(), [view.shape[-1]] * 2, antialias=True)
                expected = tv.horizontal_flip(expected) if element else expected
                torch.testing.assert_close(image, expected.float() / 255, atol=2e-4, rtol=0)


def test_one_crop_at_the_scale_of_two_views_is_the_first_of_them() -> None:
    params = ViewParams(blur_p=0.7, hed=0.05, d4=True)
    (one,) = crops(PATCHES, Generator().manual_seed(3), [Crop(scale=(0.08, 1.0))], params)
    assert torch.equal(one, two_views(PATCHES, Generator().manual_seed(3), params)["a"])


@pytest.mark.parametrize("values", [{"count": 0}, {"size": 0}, {"scale": (0.4, 0.1)}, {"scale": (0.0, 1.0)}])
def test_a_crop_that_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="A Crop needs"):
        Crop(**values)


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
    assert histology.d4 and histology.hed > 0 and histology.min_scale == 0.3
    assert not histology.solarize_p and not histology.solarize_p_first
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

    def without_contrast(params: ViewParams, least: float = 5) -> float:
        views = two_views(patches, torch.Generator().manual_seed(1), params)["a"]
        gray = 255 * (views * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1)
        return float((gray.flatten(1).std(1) < least).float().mean())

    assert without_contrast(ViewParams(d4=True, hed=0.05, min_scale=0.2)) > 0.05
    preset = ViewParams.from_preset("histology", {})
    assert without_contrast(preset) == 0
    # What it was made of: each of these takes contrast away.
    losing = {"brighter": 0.4, "flatter": 0.8, "largest_blur": 2 / 48}
    before = dataclasses.replace(preset, **losing)
    assert without_contrast(preset, 12) < 0.5 * without_contrast(before, 12)


def test_the_histology_preset_draws_what_keeps_contrast_from_the_same_numbers() -> None:
    def drawn(preset: str, side: int) -> Any:
        shape = torch.Size((400, 3, side, side))
        return recipe._draw(Generator().manual_seed(5), shape, ViewParams.from_preset(preset, {}), Crop())

    paper, small, large = drawn("paper", 48), drawn("histology", 48), drawn("histology", 224)
    for each, most in ((small, 0.432), (large, 2.016)):
        brightness, contrast = each.factors[:, 0], each.factors[:, 1]
        assert 0.84 <= float(brightness.min()) < float(brightness.max()) == 1
        assert 1 == float(contrast.min()) < float(contrast.max()) <= 1.32
        assert 0.9 * most < float(each.sigma.max()) <= most
    assert float(paper.factors[:, 1].min()) < 0.3 and 1.8 < float(paper.sigma.max()) <= 2
    # The size changes the blur alone, and that in proportion.
    assert torch.equal(small.factors, large.factors) and torch.equal(small.sigma > 0, large.sigma > 0)
    slope = (large.sigma - 0.1)[large.sigma > 0] / (small.sigma - 0.1)[small.sigma > 0]
    torch.testing.assert_close(slope, torch.full_like(slope, 1.916 / 0.332), rtol=1e-3, atol=0)
