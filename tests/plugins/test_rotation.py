from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wsitool_plugins.jitter_rotation import JitterRotation, JitterRotationParams
from wsitool_plugins.rotation import Rotation, RotationParams

PATCHES = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class _Flat(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def _rotation() -> Rotation:
    return Rotation(_Flat(), 192, RotationParams())


def test_class_k_is_k_quarter_turns_and_pixels_are_only_moved() -> None:
    views = _rotation().views(PATCHES, torch.Generator())
    assert views["turns"].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for image, turns, patch in zip(views["images"], views["turns"], PATCHES.repeat(4, 1, 1, 1), strict=True):
        expected = torch.rot90(patch, int(turns), (-2, -1)).float() / 255
        assert torch.equal(image, expected)


def test_knowing_nothing_is_a_loss_of_ln_4() -> None:
    method = _rotation()
    nn.init.zeros_(method.classifier.weight)
    nn.init.zeros_(method.classifier.bias)
    step = method.loss(method.views(PATCHES, torch.Generator()))
    assert step.loss.item() == pytest.approx(math.log(4), abs=1e-6)
    assert step.metrics["rotation_accuracy"].item() == 0.25


def test_jitter_changes_colors_of_the_rotated_images_and_no_places() -> None:
    method = JitterRotation(_Flat(), 192, JitterRotationParams(jitter=0.0))
    plain = method.views(PATCHES, torch.Generator().manual_seed(0))
    rotated = _rotation().views(PATCHES, torch.Generator())
    assert torch.allclose(plain["images"], rotated["images"], atol=1e-6)
    assert torch.equal(plain["turns"], rotated["turns"])

    # Brightness, contrast, saturation and hue leave a grey patch of one value a patch of one value.
    flat = torch.full((2, 3, 8, 8), 120, dtype=torch.uint8)
    flat[:, :, :4, :4] = 200
    method = JitterRotation(_Flat(), 192, JitterRotationParams(jitter_p=1.0))
    images = method.views(flat, torch.Generator().manual_seed(0))["images"]
    corners = [
        (slice(0, 4), slice(0, 4)),
        (slice(4, 8), slice(0, 4)),
        (slice(4, 8), slice(4, 8)),
        (slice(0, 4), slice(4, 8)),
    ]
    for turns, (rows, columns) in enumerate(corners):
        bright = torch.zeros(8, 8, dtype=torch.bool)
        bright[rows, columns] = True
        for image in images[2 * turns : 2 * turns + 2]:
            assert image[:, bright].min() > image[:, ~bright].max()
    copies = method.views(PATCHES[:1], torch.Generator().manual_seed(0))["images"]
    assert not torch.allclose(copies[0], torch.rot90(copies[1], -1, (-2, -1)))  # each copy its own colours
