"""The context encoder's mask and loss against a slow transcription; and it learns to paint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wsitool_plugins.context_encoder import ContextEncoder, ContextEncoderParams, hide, inpainting_error


def _method(**params: float) -> ContextEncoder:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return ContextEncoder(backbone, 32, ContextEncoderParams(**{"width": 16, **params}))


def _views(size: int, **params: float) -> dict[str, torch.Tensor]:
    patches = torch.randint(0, 256, (5, 3, size, size), dtype=torch.uint8)
    return _method(**params).views(patches, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("share", "cells"), [(0.25, 16), (0.001, 1), (0.999, 63)])
def test_as_many_cells_of_every_patch_are_hidden(share: float, cells: int) -> None:
    hidden = _views(32, hidden_share=share)["hidden"]
    assert hidden.shape == (5, 1, 8, 8) and hidden.sum(dim=(1, 2, 3)).tolist() == [cells] * 5
    assert cells in (1, 63) or len(torch.unique(hidden, dim=0)) == 5  # each patch has its own cells


@pytest.mark.parametrize("size", [32, 37])
def test_hidden_pixels_have_the_visible_mean_and_the_others_are_untouched(size: int) -> None:
    views = _views(size)
    whole, masked, hidden = views["whole"].numpy(), views["masked"].numpy(), views["hidden"].numpy()
    for image, seen, cells in zip(whole, masked, hidden[:, 0], strict=True):
        place = np.arange(size) * 8 // size
        mask = cells[place][:, place]
        assert np.array_equal(seen[:, ~mask], image[:, ~mask])
        np.testing.assert_allclose(
            seen[:, mask], image[:, ~mask].mean(axis=1)[:, None].repeat(mask.sum(), 1), 1e-4
        )


def test_the_loss_is_the_mean_over_hidden_pixels() -> None:
    views, painted = _views(64), torch.randn((5, 3, 32, 32), dtype=torch.float64)
    whole, cells = views["whole"].double().numpy(), views["hidden"][:, 0].numpy()
    errors, guesses = [], []
    for own, image, hidden in zip(painted.numpy(), whole, cells, strict=True):
        small = image.reshape(3, 32, 2, 32, 2).mean(axis=(2, 4))
        mask = hidden.repeat(4, axis=0).repeat(4, axis=1)
        for color, mine in zip(small, own, strict=True):
            truth = (color - color[~mask].mean()) / max(color[~mask].std(), 0.02)
            errors += ((mine - truth)[mask] ** 2).tolist()
            guesses += (truth[mask] ** 2).tolist()
    loss, guess = inpainting_error(painted, views["whole"], views["hidden"])
    assert float(loss) == pytest.approx(np.mean(errors)) and float(guess) == pytest.approx(np.mean(guesses))


def test_what_is_hidden_does_not_reach_the_network() -> None:
    views = _views(32)
    other = torch.where(
        nn.functional.interpolate(views["hidden"].float(), size=(32, 32)) > 0, 0.9, views["whole"]
    )
    assert torch.equal(hide(other, views["hidden"]), views["masked"])


def test_blank_glass_gives_a_finite_loss() -> None:
    method = _method()
    glass = torch.full((4, 3, 32, 32), 240, dtype=torch.uint8)
    step = method.loss(method.views(glass, torch.Generator().manual_seed(0)))
    assert torch.isfinite(step.loss) and float(step.metrics["chance_loss"]) < 1e-3


def test_it_learns_to_paint_better_than_the_mean_color() -> None:
    # Each patch has one of four layouts, so that the visible part tells the hidden one.
    rng = torch.Generator().manual_seed(3)
    layouts = nn.functional.interpolate(torch.rand((4, 3, 2, 2), generator=rng), size=(32, 32)) * 255
    patches = layouts.to(torch.uint8).repeat(8, 1, 1, 1)
    method = _method(min_scale=1.0)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for step in range(150):
        result = method.loss(method.views(patches, torch.Generator().manual_seed(step)))
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
    assert result.loss.item() < 0.6 * float(result.metrics["chance_loss"])
