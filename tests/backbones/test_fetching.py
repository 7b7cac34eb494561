"""Results come in order, and a device is asked for them seldom."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from accelerator import DEVICE
from torch import Tensor

from wsitool.backbones import fetching
from wsitool.backbones.fetching import BLOCK, fetched


def test_what_a_cpu_has_made_comes_at_once() -> None:
    made: list[int] = []

    def batches() -> Iterator[tuple[Tensor, int]]:
        for number in range(3):
            made.append(number)
            yield torch.full((number + 1, 2), float(number), dtype=torch.bfloat16), number

    for count, (values, number) in enumerate(fetched(batches())):
        assert made == list(range(count + 1)) and number == count
        assert values.dtype == np.float32 and values.shape == (count + 1, 2) and (values == count).all()


def test_a_device_has_many_batches_queued_before_it_is_asked() -> None:
    made: list[int] = []

    def batches() -> Iterator[tuple[Tensor, int]]:
        for number in range(2 * BLOCK):
            made.append(number)
            yield torch.empty((4, 2), device=DEVICE), number

    # The stand-in has no values to fetch: what is asked for first fails, and says when that was.
    with pytest.raises(NotImplementedError, match="meta"):
        next(fetched(batches()))
    assert len(made) == BLOCK


@pytest.mark.parametrize("count", [1, BLOCK, BLOCK + 3])
def test_blocks_are_put_apart_as_they_came(count: int) -> None:
    batches = [(torch.rand(number % 3 + 1, 5), number) for number in range(count)]
    # By the way of other devices, on the CPU.
    blocks = [batches[first : first + BLOCK] for first in range(0, count, BLOCK)]
    parts = [part for block in blocks for part in fetching._fetch(block)]
    assert [number for _, number in parts] == list(range(count))
    for (values, _), (expected, _) in zip(parts, batches, strict=True):
        assert np.array_equal(values, expected.numpy())
