"""A collection as a map-style dataset, for the stock DataLoader and libraries built on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from wsitool.store.collection import Collection

__all__ = ["PatchDataset"]


class PatchDataset(Dataset[tuple[Any, int]]):
    """Items are (patch, label): uint8 (3, P, P) through `transform` if given, and -1 = unlabelled.

    A DataLoader asks for a whole batch at once through `__getitems__`, which reads it in one go. Worker
    processes share the files; nothing of the collection is copied.

    >>> from torch.utils.data import DataLoader
    >>> dataset = wsitool.PatchDataset(wsitool.open_collection("stores"))
    >>> patches, labels = next(iter(DataLoader(dataset, batch_size=4)))
    >>> patches.shape, labels.tolist()
    (torch.Size([4, 3, 16, 16]), [1, 0, 1, 0])
    """

    def __init__(self, collection: Collection, transform: Callable[[Tensor], Any] | None = None) -> None:
        self.collection = collection
        self.transform = transform

    def __len__(self) -> int:
        return len(self.collection)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        positions = [
            range(len(self))[index] for index in indices
        ]  # IndexError, and negatives as lists have them
        # A view: channels stay last in memory, as the store has them.
        patches = torch.from_numpy(self.collection.read(positions)).permute(0, 3, 1, 2)
        labels = self.collection.labels[positions].tolist()
        change = self.transform
        return [
            (patch if change is None else change(patch), label)
            for patch, label in zip(patches, labels, strict=True)
        ]
