"""Pipelines in pieces: the same as whole, in memory that is used again but never under a held result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsitool import augment
from wsitool.augment import memory


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsitool.augment.draw._PIPELINE_PIECE", 3 * 8 * 8 * 4)
    monkeypatch.setattr(memory, "_BUFFERS", [])


def _images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 30])
def test_pieces_are_put_together_in_order(count: int) -> None:
    images = _images(count)
    sizes = []

    def operation(part: Tensor) -> Tensor:
        sizes.append(len(part))
        return part.float()[:, :1] / 255

    out = augment.in_pieces(images, operation)
    assert torch.equal(out, images.float()[:, :1] / 255)
    assert max(sizes) <= 4
    assert sum(sizes) == count


def test_held_results_are_not_overwritten() -> None:
    batches = [_images(12) for _ in range(10)]
    held = [augment.in_pieces(images, augment.to_float) for images in batches]
    views = [result[3:5, 0] for result in held]
    del held
    for _ in range(10):
        augment.in_pieces(_images(12), augment.to_float)
    for images, view in zip(batches, views, strict=True):
        assert torch.equal(view, images[3:5, 0] / 255)


def test_memory_is_used_again() -> None:
    places = set()
    for _ in range(20):
        result = augment.in_pieces(_images(12), augment.to_float)
        places.add(result.data_ptr())
        del result
    assert len(places) == 1
    for count in range(10, 30):
        augment.in_pieces(_images(count), augment.to_float)
    assert len(memory._BUFFERS) <= 4
