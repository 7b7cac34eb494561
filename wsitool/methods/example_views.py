"""What a method makes of patches, without training anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsitool.api import Params
from wsitool.methods.meta import call_views, check_needs, first_batch
from wsitool.methods.registry import blame_plugin, load_method
from wsitool.store.collection import Collection

__all__ = ["example_views"]


def example_views(
    collection: Collection,
    *,
    method: str,
    params: Mapping[str, Any] | None = None,
    preset: str = "paper",
    number: int = 8,
    rows: Sequence[int] | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> dict[str, NDArray[np.uint8]]:
    """Draw `number` patches and the views `method` makes of them: name -> (number, H, W, 3) uint8.

    `rows` of the collection are taken where they are given, also one several times. "original" comes first,
    then, where the collection is normalised by stain, what views are made of. A view of k images per patch
    becomes k columns. Patches and views depend on `seed` only. Raises what `load_method` raises, and
    PluginError if the method fails.
    """
    method_type = load_method(method)
    method_params: Params = method_type.params_type.from_preset(preset, dict(params or {}))
    # Sorted: patches come in the order of the store, where neighbours are read together.
    drawn = np.random.default_rng(seed).permutation(len(collection))[:number] if rows is None else rows
    indices = np.sort(np.asarray(drawn, np.int64))
    check_needs(method_type, method, collection, _Stand())
    raw, _ = first_batch(
        method_type, collection.with_stain(None), torch.from_numpy(indices), image_size=image_size
    )
    patches, meta = first_batch(method_type, collection, torch.from_numpy(indices), image_size=image_size)
    # No gradient, as in training; `views` of plugins may fail in any way.
    with blame_plugin(method, "its views"), torch.no_grad():
        instance = method_type(_Stand(), _Stand.feature_dim, method_params)
        views = call_views(instance, patches, torch.Generator().manual_seed(seed), meta)
    columns = {"original": _shown(raw)}
    if collection.stain is not None:
        columns[collection.stain.norm.method] = _shown(patches)
    for name, images in views.items():
        # Other views (labels, masks) are no pictures.
        if images.ndim == 4 and images.shape[1] == 3 and len(images) % len(patches) == 0:
            # A view of k * B images holds k blocks of the batch.
            parts = torch.split(images, len(patches))
            names = [name] if len(parts) == 1 else [f"{name} {part + 1}" for part in range(len(parts))]
            columns |= {label: _shown(part) for label, part in zip(names, parts, strict=True)}
    return columns


class _Stand(nn.Module):
    """Stands where the backbone would be: views do not need one, but heads are built for its features."""

    feature_dim = token_dim = 8
    patch_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, self.feature_dim, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


def _shown(images: Tensor) -> NDArray[np.uint8]:
    if images.dtype != torch.uint8:
        # Rounded, not cut: 0.999 is white.
        images = (images * 255).round_().clamp_(0, 255).to(torch.uint8)
    shown: NDArray[np.uint8] = images.permute(0, 2, 3, 1).contiguous().numpy()
    return shown
