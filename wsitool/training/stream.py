"""The whole training as one stream of batches that can start anywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypedDict

from torch import Tensor

from wsitool.api import Meta
from wsitool.loading import PatchLoader
from wsitool.methods.meta import Describe

__all__ = ["BatchStream", "Item"]


class Item(TypedDict):
    """One batch and its number counted from the start of training."""

    step: int
    patches: Tensor  # (B, 3, P, P) uint8
    indices: Tensor  # (B,) int64
    labels: Tensor  # (B,) int64
    meta: Meta | None  # for methods that ask for it


class BatchStream:
    """Batches `start` to `total` of all epochs, one after another.

    A position is one number, so resuming is the same as starting elsewhere. `describe` says what is known of
    a batch, where the method asks. `wait_seconds` is how long the consumer stood still for data.
    """

    def __init__(
        self, loader: PatchLoader, *, total: int, start: int = 0, describe: Describe | None = None
    ) -> None:
        self.loader, self.total, self.start, self.describe = loader, total, start, describe
        self.wait_seconds = 0.0

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[Item]:
        batches = self.loader.batches(self.start, self.total)
        for step in range(self.start, self.total):
            began = time.perf_counter()
            batch = next(batches)
            self.wait_seconds += time.perf_counter() - began
            meta = None if self.describe is None else self.describe(batch)
            yield Item(
                step=step, patches=batch.patches, indices=batch.indices, labels=batch.labels, meta=meta
            )
