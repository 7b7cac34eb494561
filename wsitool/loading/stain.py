"""The patches of a collection brought to its stain, batch by batch on their device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsitool.augment.batched import exact_products
from wsitool.augment.draw import pieces, to_device
from wsitool.augment.stain_norm import normalize_lab, normalize_stains
from wsitool.store.collection import Collection
from wsitool.store.stain_table import StainTable

__all__ = ["StainNormalizer", "normalizer_of"]


class StainNormalizer:
    """Normalises patches by the table of their stores. The host waits for nothing and reads nothing back."""

    def __init__(self, table: StainTable, device: torch.device) -> None:
        self._change = normalize_stains if table.norm.method == "macenko" else normalize_lab
        # Copied once: a batch then only says of which store each patch is.
        self._values = to_device(torch.from_numpy(table.values), device)
        self._fitted = to_device(torch.from_numpy(table.fitted), device)

    def __call__(self, patches: Tensor, stores: NDArray[np.integer]) -> Tensor:
        """Uint8 (B, 3, H, W) of `stores` (B,), rows of the table, as uint8; what is not fitted as it is."""
        rows = to_device(torch.from_numpy(stores.astype(np.int64)), self._values.device)
        values, fitted = self._values[rows], self._fitted[rows, None, None, None]
        out = torch.empty_like(patches)
        with exact_products():
            # A CPU takes a few at a time, which stay in its cache.
            for piece in pieces(patches):
                images = patches[piece]
                made = self._change(images.float(), values[piece]).round_().to(torch.uint8)
                out[piece] = torch.where(fitted[piece], made, images)
        return out


def normalizer_of(
    collection: Collection, device: torch.device
) -> Callable[[Tensor, NDArray[np.int64]], Tensor] | None:
    """What brings patches (B, 3, P, P) and their indices (B,) in `collection` to its stain, if it has one."""
    if collection.stain is None:
        return None
    normalize, store_index = StainNormalizer(collection.stain, device), collection.store_index
    return lambda patches, indices: normalize(patches, store_index[indices])
