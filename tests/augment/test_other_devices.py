"""What other devices than the CPU run: the same results, few calls, one copy, nothing read back."""

from __future__ import annotations

import sys

import pytest
import torch
from accelerator import DEVICE, accelerator
from torch import Generator, Tensor

from wsitool import augment
from wsitool.augment import batched
from wsitool.augment.stain import mix_stains, stain_products
from wsitool.testing.stores import example_patches

recipe = sys.modules[augment.two_views.__module__]  # the package's attribute of that name is the function


def _float_images(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(example_patches(count, size, seed=seed)).permute(0, 3, 1, 2).float() / 255


def test_colors_of_a_whole_batch_at_once() -> None:
    images = _float_images(24, 16)
    rng = Generator().manual_seed(0)
    factors = torch.empty(24, 4).uniform_(0.2, 1.8, generator=rng)
    factors[:, 3] = (factors[:, 3] - 1) / 4
    factors[::5] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    order = torch.stack([torch.randperm(4, generator=rng) for _ in range(24)])
    together = batched.color_batch(images, *batched.blend_coefficients(factors, order))
    assert torch.allclose(together, augment.adjust_color(images, factors, order), atol=5e-6)
    assert torch.allclose(together[::5], images[::5], atol=1e-6)


def test_grey_blur_and_stain_of_a_whole_batch_at_once() -> None:
    images = _float_images(5, 40, seed=1)[:, :, :37]  # not square, and no multiple of a block
    gray = torch.tensor([True, False, True, False, False])
    assert torch.allclose(
        batched.mixed(images, batched.gray_matrices(gray)), augment.grayscale(images, gray), atol=1e-6
    )
    sigma = torch.tensor([0.0, 0.1, 0.5, 1.9, 3.0])
    blurred = batched.convolve(images, batched.blur_taps(sigma, most=30))
    assert torch.allclose(blurred, augment.blur(images, sigma), atol=1e-5)
    assert torch.equal(blurred[0], images[0])
    tiny = images[..., :8, :8]  # smaller than the kernel, which is then cut
    short = batched.convolve(tiny, batched.blur_taps(torch.full((5,), 2.0), most=7))
    assert torch.allclose(short, augment.blur(tiny, torch.full((5,), 2.0)), atol=1e-3)
    alpha, beta = torch.rand(5, 3) + 0.5, torch.rand(5, 3) / 50
    stained = mix_stains(images, *stain_products(alpha, beta))
    assert torch.allclose(stained, augment.shift_hed(images, alpha, beta), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crops_by_products_of_matrices(dtype: torch.dtype) -> None:
    images = _float_images(16, 48)
    images = (images * 255).to(torch.uint8) if dtype == torch.uint8 else images
    rng = Generator().manual_seed(2)
    boxes, element = augment.crop_boxes(rng, 16, 48, 48), torch.arange(16) % 8
    straight = torch.zeros(16, dtype=torch.bool)
    axes = [
        batched.axis_coefficients(boxes[:, n], boxes[:, n + 2], straight, extent=48, size=32) for n in (0, 1)
    ]
    weights = [batched.axis_weights(axis, torch.arange(1.0, 33)) for axis in axes]
    crops = batched.turned_crops(images, *weights)
    expected = augment.resized_crop(images, boxes, 32).float()
    tolerance = 1.0 if dtype == torch.uint8 else 1e-5  # a resized byte is rounded, by torch in whole numbers
    assert torch.allclose(crops, expected, atol=tolerance, rtol=0)
    flips = recipe.square_flips(element)
    turned = torch.where(flips[0][:, None, None, None], crops.flip(-2), crops)
    turned = torch.where(flips[1][:, None, None, None], turned.flip(-1), turned)
    turned = torch.where(flips[2][:, None, None, None], turned.transpose(-1, -2), turned)
    assert torch.equal(turned, augment.flip_rotate(crops, element))


@pytest.mark.parametrize(
    "params",
    [
        augment.ViewParams(),
        augment.ViewParams(d4=True, hed=0.05, blur_p=1.0, solarize_p=0.5),
        augment.ViewParams(strength=0.0, blur_p=0.0),
    ],
)
def test_two_views_of_a_whole_batch_are_those_of_one_patch_after_another(params: augment.ViewParams) -> None:
    patches = _float_images(24, 40)  # bytes would be rounded between crop and colours
    rng = Generator().manual_seed(3)
    asked = [
        augment.Crop(scale=(params.min_scale, 1), solarize_p=share) for share in (0.0, params.solarize_p)
    ]
    drawn = [recipe._draw(rng, patches.shape, params, crop) for crop in asked]
    together = recipe._batched(patches, drawn, 40)
    expected = augment.two_views(patches, Generator().manual_seed(3), params)
    assert torch.allclose(together, torch.cat([expected["a"], expected["b"]]), atol=2e-5)


@pytest.mark.parametrize(
    ("params", "most"),
    [
        (augment.ViewParams(), 60),
        (augment.ViewParams.from_preset("histology", {}), 60),
        (augment.ViewParams(solarize_p=0.2), 66),
    ],
)
def test_two_views_are_few_kernels_and_one_copy(params: augment.ViewParams, most: int) -> None:
    # Nothing can be read from a meta tensor: a step that waits for its device is an error here.
    patches = torch.empty((64, 32, 32, 3), dtype=torch.uint8, device=DEVICE).permute(0, 3, 1, 2)
    with accelerator() as counted:
        views = augment.two_views(patches, Generator().manual_seed(0), params)
    assert views["a"].shape == views["b"].shape == (64, 3, 32, 32)
    assert views["a"].is_contiguous() and views["a"].dtype == torch.float32
    assert counted.kernels.total() <= most, counted.kernels
    assert (counted.uploads, counted.waits) == (1, 0)
    for name in ("index", "index_put_", "scatter", "nonzero", "_local_scalar_dense"):
        assert counted.kernels[name] == 0


def test_crops_of_a_whole_batch_are_those_of_one_patch_after_another() -> None:
    patches, params = _float_images(12, 40), augment.ViewParams(d4=True, hed=0.05, blur_p=0.5)
    crop = augment.Crop(count=3, size=24, scale=(0.05, 0.4), solarize_p=0.5)
    rng = Generator().manual_seed(3)
    drawn = [recipe._draw(rng, patches.shape, params, crop) for _ in range(3)]
    together = recipe._batched(patches, drawn, 24)
    (expected,) = augment.crops(patches, Generator().manual_seed(3), [crop], params)
    assert expected.shape == (36, 3, 24, 24)
    assert torch.allclose(together, expected, atol=2e-5)


def test_multi_crop_is_one_copy_for_each_kind_of_crop() -> None:
    patches = torch.empty((8, 32, 32, 3), dtype=torch.uint8, device=DEVICE).permute(0, 3, 1, 2)
    asked = [augment.Crop(count=2, scale=(0.4, 1.0)), augment.Crop(count=6, size=16, scale=(0.05, 0.4))]
    with accelerator() as counted:
        large, small = augment.crops(patches, Generator().manual_seed(0), asked, augment.ViewParams())
    assert large.shape == (16, 3, 32, 32) and small.shape == (48, 3, 16, 16)
    assert counted.uploads == 2 and counted.waits == 0


def test_every_public_operation_reads_nothing_back_and_goes_up_at_most_once() -> None:
    patches = torch.empty((8, 3, 32, 32), dtype=torch.uint8, device=DEVICE)
    rng = Generator().manual_seed(0)
    operations = {
        "color_jitter": lambda: augment.color_jitter(patches, rng, brightness=0.4, hue=0.1),
        "random_grayscale": lambda: augment.random_grayscale(patches, rng),
        "gaussian_blur": lambda: augment.gaussian_blur(patches, rng),
        "hed_jitter": lambda: augment.hed_jitter(patches, rng),
        "random_resized_crop": lambda: augment.random_resized_crop(patches, rng, size=16),
        "random_d4": lambda: augment.random_d4(patches, rng),
        "random_hflip": lambda: augment.random_hflip(patches, rng),
        "random_vflip": lambda: augment.random_vflip(patches, rng),
        "to_float": lambda: augment.to_float(patches),
        "solarize": lambda: augment.solarize(patches, torch.ones(8, dtype=torch.bool)),
    }
    for name, operation in operations.items():
        with accelerator() as counted:
            out = operation()
        assert out.device == DEVICE and counted.uploads <= 1 and counted.waits == 0, name
