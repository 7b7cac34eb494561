"""What a method is told of a batch beside its pixels, and whether all it needs is there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from wsitool.api import Meta, Method, resize
from wsitool.base.progress import SILENT, Reporter
from wsitool.errors import UsageError
from wsitool.loading import Batch
from wsitool.loading.adjacent import Adjacent
from wsitool.loading.stain import normalizer_of
from wsitool.store.collection import Collection

__all__ = ["Describe", "call_views", "check_needs", "describer", "find_pairs", "first_batch", "wants_meta"]

Describe = Callable[[Batch], Meta]

_FEW = 0.5  # of the patches with a neighbour


def wants_meta(kind: type[Method[Any]]) -> bool:
    """Whether `views` of the method asks for `meta`."""
    return "meta" in inspect.signature(kind.views).parameters


def call_views(method: Method[Any], patches: Tensor, rng: Generator, meta: Meta | None) -> dict[str, Tensor]:
    """The method's views, with `meta` where it asks for that."""
    if not wants_meta(type(method)):
        return method.views(patches, rng)
    # By name: an author may put it where they like.
    views: dict[str, Tensor] = method.views(patches, rng, meta=meta)  # type: ignore[call-arg]
    return views


def describer(kind: type[Method[Any]], collection: Collection) -> Describe | None:
    """What makes `Meta` of a batch of `collection`; None for a method that does not ask for it."""
    if not wants_meta(kind):
        return None
    # Once, as numbers (16 bytes a patch): coordinates are read from the stores' files.
    coords = np.zeros((len(collection), 2), np.int64)
    for number, rows in collection.rows_by_store():
        coords[rows] = collection.stores[number].coords[collection.row[rows]]
    mpp = np.array([store.meta.mpp_effective or np.nan for store in collection.stores], np.float32)
    groups = collection.group_index

    def describe(batch: Batch) -> Meta:
        rows = batch.indices.numpy()
        stores = collection.store_index[rows].astype(np.int64)
        return Meta(
            indices=batch.indices,
            labels=batch.labels,
            store=torch.from_numpy(stores),
            group=torch.from_numpy(groups[rows].astype(np.int64)),
            coords=torch.from_numpy(coords[rows]),
            mpp=torch.from_numpy(mpp[stores]),
            pairs=batch.pairs,
        )

    return describe


def find_pairs(kind: type[Method[Any]], collection: Collection) -> Adjacent | None:
    """Who lies beside whom in `collection`; None for a method that does not need to know."""
    return Adjacent(collection) if "pairs" in kind.needs else None


def check_needs(
    kind: type[Method[Any]],
    name: str,
    collection: Collection,
    backbone: nn.Module,
    reporter: Reporter = SILENT,
) -> Adjacent | None:
    """UsageError where the method `name` needs what `collection` or `backbone` has not; else its pairs.

    `reporter` is told where few patches have one.
    """
    if "tokens" in kind.needs and getattr(backbone, "patch_size", None) is None:
        raise UsageError(
            f"The method '{name}' needs a backbone with tokens, and {getattr(backbone, 'name', 'this one')} "
            "has none: pass --backbone timm:vit_small_patch16_224, or another of timm's vit_ networks."
        )
    labelled = np.unique(collection.labels[collection.labels >= 0])
    if "labels" in kind.needs and len(labelled) < 2:
        raise UsageError(
            f"The method '{name}' needs patches labelled with at least two classes, and the stores have "
            f"{len(labelled)}: label them (wsitool tile --annotations, or a label column), or take simclr."
        )
    pairs = find_pairs(kind, collection)
    if pairs is not None and pairs.share == 0:
        raise UsageError(
            f"The method '{name}' needs patches that lie beside each other, and no patch of these stores has "
            "a neighbour: tile with --stride not above --patch-size, or take simclr."
        )
    if pairs is not None and pairs.share < _FEW:
        reporter.warn(
            f"Only {pairs.share:.0%} of the patches have a neighbour; the others are paired with themselves."
        )
    return pairs


def first_batch(
    kind: type[Method[Any]],
    collection: Collection,
    rows: Tensor,
    *,
    device: str = "cpu",
    image_size: int | None = None,
) -> tuple[Tensor, Meta | None]:
    """The patches `rows` (B,) of `collection`, resized, and what the method asks to know of them."""
    indices = rows.numpy()
    pairs = find_pairs(kind, collection)
    normalize = normalizer_of(collection, torch.device(device))

    def read(numbers: np.ndarray[Any, Any]) -> Tensor:
        patches = torch.from_numpy(collection.read(numbers)).permute(0, 3, 1, 2).to(device)
        if normalize is not None:
            patches = normalize(patches, numbers)
        return patches if image_size is None else resize(patches, image_size)

    batch = Batch(
        patches=read(indices),
        indices=rows,
        labels=torch.from_numpy(collection.labels[indices].astype(np.int64)),
        pairs=None if pairs is None else read(pairs.draw(indices, (0,))),
    )
    describe = describer(kind, collection)
    return batch.patches, None if describe is None else describe(batch)
