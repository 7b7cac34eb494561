"""Each operation against torchvision or scikit-image with the same parameters; distributions; randomness."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.color import hed2rgb, rgb2hed
from torch import Generator, Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from wsitool import augment
from wsitool.augment.geometry import _crop_by_matrices
from wsitool.testing import draw_tissue


def _rng(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def patches() -> Tensor:
    """(6, 3, 64, 64) uint8 tissue, channels last as a store gives it."""
    tissue = draw_tissue(384, 64, kind="adh", glass=0.0)
    cut = [tissue[:, 64 * i : 64 * (i + 1)] for i in range(6)]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def soft(patches: Tensor) -> Tensor:
    """Float images whose values stay within [0, 1] under moderate factors."""
    return augment.to_float(patches) * 0.4 + 0.3


def test_crop_is_torchvisions_bit_for_bit(patches: Tensor) -> None:
    boxes = augment.crop_boxes(_rng(1), len(patches), 64, 64)
    ours = augment.resized_crop(patches, boxes, 32)
    assert ours.dtype == torch.uint8
    for image, box, cropped in zip(patches, boxes.tolist(), ours, strict=True):
        theirs = tv.resized_crop(image[None], *box, size=[32, 32], antialias=True)[0]
        assert torch.equal(cropped, theirs)


@pytest.mark.parametrize("size", [16, 32, 96])
def test_crop_by_matrices_equals_crop_one_by_one(patches: Tensor, size: int) -> None:
    """The path of other devices, run on the CPU."""
    boxes = augment.crop_boxes(_rng(2), len(patches), 64, 64)
    assert (
        augment.resized_crop(patches, boxes, size).int() - _crop_by_matrices(patches, boxes, size)
    ).abs().max() <= 1
    floats = augment.to_float(patches)
    assert torch.allclose(
        augment.resized_crop(floats, boxes, size), _crop_by_matrices(floats, boxes, size), atol=2e-5
    )


def test_crop_boxes_have_torchvisions_distribution() -> None:
    ours = augment.crop_boxes(_rng(), 20_000, 100, 100).double()
    image = torch.zeros(3, 100, 100)
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(8)
    theirs = torch.tensor([list(crop.make_params([image]).values()) for _ in range(6000)]).double()
    assert (ours[:, 0] + ours[:, 2]).max() <= 100
    assert (ours[:, 1] + ours[:, 3]).max() <= 100
    assert ours.min() >= 0
    for statistic in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 2] / box[:, 3],
        lambda box: box[:, 0],
    ):
        a, b = statistic(ours), statistic(theirs)
        assert abs(a.mean() - b.mean()) < 5 * (b.std() / len(b) ** 0.5 + a.std() / len(a) ** 0.5)
        assert abs(a.std() / b.std() - 1) < 0.06


def test_crop_of_a_narrow_image_falls_back_to_the_central_box() -> None:
    boxes = augment.crop_boxes(_rng(), 50, 100, 10, scale=(0.9, 1.0))
    assert torch.equal(boxes, torch.tensor([[43, 0, 13, 10]]).expand(50, 4))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_color_equals_torchvision_in_every_order(soft: Tensor, order: tuple[int, ...]) -> None:
    factors = torch.tensor([[1.2, 0.9, 1.3, 0.1], [0.85, 1.2, 0.7, -0.2], [1.1, 1.1, 0.9, 0.4]])
    operations: list[Callable[..., Tensor]] = [
        tv.adjust_brightness,
        tv.adjust_contrast,
        tv.adjust_saturation,
        tv.adjust_hue,
    ]
    ours = augment.adjust_color(soft[:3], factors, torch.tensor(order).expand(3, 4))
    for image, row, made in zip(soft, factors.tolist(), ours, strict=False):
        for kind in order:
            image = operations[kind](image, row[kind])
        assert torch.allclose(made, image, atol=2e-5)


def test_color_of_uint8_in_mixed_orders_and_with_clamping(patches: Tensor) -> None:
    """Single operations clamp as torchvision does, even where values leave the range."""
    for kind, operation in enumerate((tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)):
        factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(6, 1)
        factors[:, kind] = torch.tensor([0.0, 0.3, 1.0, 1.7, 2.5, 0.6])
        order = torch.stack([torch.randperm(4, generator=_rng(i)) for i in range(6)])
        ours = augment.adjust_color(patches, factors, order)
        for image, factor, made in zip(patches, factors[:, kind].tolist(), ours, strict=True):
            assert torch.allclose(made, operation(image / 255, factor), atol=1e-5)


def test_color_of_uint8_in_any_order_equals_torchvision(patches: Tensor) -> None:
    """Factors on both sides of 1, so that operations with and without a clamp follow each other."""
    operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for order in itertools.permutations(range(4)):
        factors = torch.rand(
            (6, 4), generator=_rng(sum(10**place * kind for place, kind in enumerate(order)))
        )
        factors = factors * torch.tensor([1.6, 1.6, 1.6, 1.0]) + torch.tensor([0.2, 0.2, 0.2, -0.5])
        factors[5] = torch.tensor([0.7, 0.5, 0.6, 0.3])  # without any clamp
        ours = augment.adjust_color(patches, factors, torch.tensor(order).expand(6, 4))
        for image, row, made in zip(patches / 255, factors.tolist(), ours, strict=True):
            for kind in order:
                image = operations[kind](image, row[kind])
            assert torch.allclose(made, image, atol=2e-5)


def test_color_left_alone_is_the_image(patches: Tensor) -> None:
    white = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    nothing = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    for images in (patches, white):
        made = augment.adjust_color(
            images, nothing.expand(len(images), 4), torch.arange(4).expand(len(images), 4)
        )
        assert torch.allclose(made, images / 255, atol=1e-7) and made.max() <= 1


@pytest.mark.parametrize("size", [(40, 40), (33, 64), (96, 20), (10, 12)], ids=str)
@pytest.mark.parametrize("sigma", [0.15, 0.6, 2.0, 2.4, 3.7])
def test_blur_of_any_size_equals_torchvision(patches: Tensor, size: tuple[int, int], sigma: float) -> None:
    """Widths that are no multiple of a group, reaches over more than one group, images narrower than both."""
    images = tv.resize(augment.to_float(patches[:2]), list(size))
    height, width = (2 * min(int(np.ceil(4 * sigma)), length - 1) + 1 for length in size)
    theirs = tv.gaussian_blur(images, [width, height], [sigma, sigma])
    assert torch.allclose(augment.blur(images, torch.full((2,), sigma)), theirs, atol=1e-5)


def test_color_jitter_draws_what_torchvision_draws(soft: Tensor) -> None:
    """With p, that share is left alone; brightness of grey images shows the range and the mean."""
    flat = torch.full((4000, 3, 2, 2), 0.5)
    bright = augment.color_jitter(flat, _rng(), brightness=0.4, p=0.8)[:, 0, 0, 0] / 0.5
    changed = bright[(bright - 1).abs() > 1e-6]
    assert abs(len(changed) / 4000 - 0.8) < 0.03
    assert changed.min() >= 0.6
    assert changed.max() <= 1.4
    assert abs(changed.mean() - 1) < 0.02
    assert abs(changed.std() - 0.8 / 12**0.5) < 0.01
    assert len(bright.unique()) > 3000


def test_grayscale_equals_torchvision(soft: Tensor) -> None:
    which = torch.tensor([True, False, True, False, False, True])
    ours = augment.grayscale(soft, which)
    assert torch.allclose(ours[which], tv.rgb_to_grayscale(soft[which], num_output_channels=3), atol=1e-6)
    assert torch.equal(ours[~which], soft[~which])


def test_blur_equals_torchvision(soft: Tensor) -> None:
    sigma = torch.tensor([0.0, 0.1, 0.7, 1.3, 2.0, 1.3])
    ours = augment.blur(soft, sigma)
    assert torch.equal(ours[0], soft[0])
    for image, value, made in zip(soft[1:], sigma[1:].tolist(), ours[1:], strict=True):
        side = 2 * int(np.ceil(4 * value)) + 1
        assert torch.allclose(made, tv.gaussian_blur(image, [side, side], [value, value]), atol=1e-5)
        wide = tv.gaussian_blur(image, [41, 41], [value, value])
        assert (made - wide).abs().max() < 1 / 255 / 4  # what the cut at four sigma costs


def test_normalise_equals_torchvision(patches: Tensor) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = tv.normalize(patches / 255, list(mean), list(std))
    assert torch.allclose(augment.normalize(patches, mean, std), theirs, atol=1e-5)


def test_d4_elements_are_the_eight_symmetries(patches: Tensor) -> None:
    one = patches[:1].expand(8, -1, -1, -1)
    out = augment.flip_rotate(one, torch.arange(8))
    for e in range(8):
        source = patches[0].flip(-1) if e >= 4 else patches[0]
        assert torch.equal(out[e], torch.rot90(source, e % 4, (-2, -1)))
    assert len({image.numpy().tobytes() for image in out}) == 8
    with pytest.raises(ValueError, match="square"):
        augment.flip_rotate(patches[:, :, :32], torch.zeros(6, dtype=torch.long))


def test_flips_are_exact_and_as_frequent_as_asked() -> None:
    images = torch.arange(6).reshape(1, 1, 2, 3).expand(4000, 3, 2, 3).to(torch.uint8)
    for flip, dim in ((augment.random_hflip, -1), (augment.random_vflip, -2)):
        out = flip(images, _rng(), 0.3)
        flipped = (out == images.flip(dim)).flatten(1).all(1)
        kept = (out == images).flatten(1).all(1)
        assert bool((flipped ^ kept).all())
        assert abs(flipped.float().mean() - 0.3) < 0.03


def test_stain_shift_equals_scikit_image(soft: Tensor) -> None:
    alpha = torch.tensor([[1.05, 0.97, 1.0]]).expand(6, 3)
    beta = torch.tensor([[0.004, -0.003, 0.0]]).expand(6, 3)
    ours = augment.shift_hed(soft, alpha, beta)
    for image, made in zip(soft, ours, strict=True):
        rgb = image.permute(1, 2, 0).numpy().astype(np.float64)
        stains = (
            np.log(np.maximum(rgb, 1e-6))
            / np.log(1e-6)
            @ np.linalg.inv(np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]]))
        )
        positive = (stains > 0).all(axis=-1)
        assert np.allclose(rgb2hed(rgb)[positive], stains[positive])
        theirs = hed2rgb(stains * alpha[0].numpy() + beta[0].numpy())
        assert np.allclose(made.permute(1, 2, 0).numpy(), theirs, atol=1e-5)


def test_stain_shift_of_nothing_gives_the_image_back(patches: Tensor) -> None:
    out = augment.shift_hed(patches, torch.ones(6, 3), torch.zeros(6, 3))
    assert torch.allclose(out, patches / 255, atol=1e-5)


_RANDOM: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "crop": lambda x, rng: augment.random_resized_crop(x, rng, size=24),
    "hflip": augment.random_hflip,
    "vflip": augment.random_vflip,
    "d4": augment.random_d4,
    "jitter": lambda x, rng: augment.color_jitter(
        x, rng, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2
    ),
    "grey": augment.random_grayscale,
    "blur": augment.gaussian_blur,
    "stain": augment.hed_jitter,
}


@pytest.mark.parametrize("name", _RANDOM)
def test_randomness_comes_only_from_the_generator(patches: Tensor, name: str) -> None:
    operation, before = _RANDOM[name], patches.clone()
    state = torch.get_rng_state()
    first, again, other = (operation(patches, _rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(patches, before)
    if first.dtype != torch.uint8:
        assert first.dtype == torch.float32
        assert first.min() >= 0
        assert first.max() <= 1


@pytest.mark.parametrize("name", _RANDOM)
def test_result_does_not_depend_on_how_the_batch_is_cut(
    patches: Tensor, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _RANDOM[name](patches, _rng(3))
    monkeypatch.setattr("wsitool.augment.draw._PIECE", 1)
    single = _RANDOM[name](patches, _rng(3))
    assert torch.allclose(whole.float(), single.float(), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in _RANDOM if name != "d4"])
@pytest.mark.parametrize("shape", [(1, 3, 33, 47), (0, 3, 32, 32)])
def test_odd_and_empty_batches(name: str, shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    assert len(_RANDOM[name](images, _rng())) == shape[0]
