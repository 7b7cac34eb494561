"""What other devices than the CPU run, run on the CPU: the same results as its own way."""

from __future__ import annotations

import torch

from wsitool import augment
from wsitool.augment.blur import _by_matrices
from wsitool.augment.color import _adjust_together
from wsitool.testing.stores import example_patches


def test_colors_of_a_whole_batch_at_once() -> None:
    images = torch.from_numpy(example_patches(24, 16)).permute(0, 3, 1, 2).float() / 255
    rng = torch.Generator().manual_seed(0)
    factors = torch.empty(24, 4).uniform_(0.2, 1.8, generator=rng)
    factors[:, 3] = (factors[:, 3] - 1) / 4
    factors[::5] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    order = torch.stack([torch.randperm(4, generator=rng) for _ in range(24)])
    together = images.clone()
    for place in range(4):
        _adjust_together(together, order[:, place], factors)
    assert torch.allclose(together, augment.adjust_color(images, factors, order), atol=1e-6)
    assert torch.equal(together[::5], images[::5])


def test_blur_by_whole_matrices() -> None:
    images = torch.from_numpy(example_patches(5, 40, seed=1)).permute(0, 3, 1, 2).float() / 255
    images = images[:, :, :37]  # not square, and no multiple of a block
    sigma = torch.tensor([0.1, 0.5, 1.0, 1.9, 3.0])
    assert torch.allclose(_by_matrices(images, sigma), augment.blur(images, sigma), atol=1e-5)
