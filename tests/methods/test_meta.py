"""What methods are told of a batch, who lies beside whom, and needs that cannot be met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_methods import Good
from patch_stores import patch_folder, patch_meta, small_store
from torch import Generator, Tensor

from wsitool.api import Meta
from wsitool.backbones.build import build_backbone
from wsitool.errors import UsageError
from wsitool.loading import PatchLoader
from wsitool.loading.adjacent import Adjacent
from wsitool.methods.meta import check_needs, describer, first_batch
from wsitool.store.collection import Collection, open_collection
from wsitool.store.opening import create_store
from wsitool.store.schema import Candidates, Rows


class Asks(Good):
    """It asks for everything, arXiv:2005.10242."""

    needs = frozenset({"labels", "coords", "pairs"})

    def views(self, patches: Tensor, rng: Generator, meta: Meta) -> dict[str, Tensor]:  # type: ignore[override]
        return super().views(patches, rng) | {"labels": meta.labels}


class Tokens(Good):
    """It needs tokens, arXiv:2005.10242."""

    needs = frozenset({"tokens"})


def _grid_store(path: Path, places: np.ndarray[Any, Any], *, stride: float, patch: float = 32.0) -> None:
    """A store of 8-px patches at `places` (N, 2) of a grid; a patch shows its own row's number."""
    number = len(places)
    order = np.lexsort((places[:, 0], places[:, 1]))
    coords = np.floor(places[order] * stride).astype(np.int64)
    tissue = np.ones(number, np.float32)
    patches = np.broadcast_to(np.arange(number, dtype=np.uint8)[:, None, None, None], (number, 8, 8, 3))
    from dataclasses import replace

    meta = replace(
        patch_meta(path.stem, 8, number),
        level0_width=10**6,
        level0_height=10**6,
        patch_size_level0=patch,
        stride_level0=stride,
    )
    with create_store(path, meta) as writer:
        writer.append(Rows(patches=np.ascontiguousarray(patches), coords=coords, tissue=tissue))
        kept = Candidates(coords=coords, tissue=tissue, reason=np.zeros(number, np.uint8))
        writer.finish(kept, counts={"kept": number})


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Two slides: a third of a grid at a broken stride, and patches that overlap by half."""
    folder = tmp_path_factory.mktemp("grids")
    rng = np.random.default_rng(0)
    every = np.stack(np.meshgrid(np.arange(12), np.arange(12)), axis=-1).reshape(-1, 2)
    _grid_store(folder / "a.h5", every[rng.random(len(every)) < 0.33], stride=32.37)
    _grid_store(folder / "b.h5", every[rng.random(len(every)) < 0.6], stride=16.0)
    return open_collection(folder)


def _around(collection: Collection, index: int) -> set[int]:
    """By looking at every patch: same slide, beside it without overlap."""
    coords = np.concatenate([store.coords for store in collection.stores])
    stride = collection.stores[collection.store_index[index]].meta.stride_level0
    near = set()
    for other in range(len(collection)):
        apart = np.abs(coords[other] - coords[index]).max()
        same = collection.store_index[other] == collection.store_index[index]
        exact = np.rint(np.abs(coords[other] - coords[index]) / stride) * stride
        if same and 31 < apart < 34 and set(np.rint(exact / max(32, stride)) * max(32, stride)) == set(exact):
            near.add(other)
    return near


def test_pairs_are_the_patches_beside_each_other_each_as_often(grids: Collection) -> None:
    adjacent = Adjacent(grids)
    every = np.arange(len(grids))
    draws = np.stack([adjacent.draw(every, (seed,)) for seed in range(200)])
    alone = 0
    for index in every.tolist():
        expected = _around(grids, index) or {index}
        alone += expected == {index}
        values, counts = np.unique(draws[:, index], return_counts=True)
        assert set(values.tolist()) == expected
        assert counts.min() > 0.3 * 200 / len(expected)
    assert 0 < alone < len(grids) and adjacent.share == pytest.approx(1 - alone / len(grids))
    assert np.array_equal(adjacent.draw(every, (3,)), draws[3])


def test_pairs_stay_inside_a_subset(grids: Collection) -> None:
    part = grids.subset(np.arange(0, len(grids), 2))
    adjacent = Adjacent(part)
    assert set(adjacent.draw(np.arange(len(part)), (0,)).tolist()) <= set(range(len(part)))


@pytest.mark.parametrize("world", [1, 2])
def test_the_loader_reads_a_patch_and_its_pair_and_can_be_resumed(grids: Collection, world: int) -> None:
    def batches(first: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        loader = PatchLoader(
            grids, batch_size=8, seed=3, rank=world - 1, world_size=world, pairs=Adjacent(grids)
        )
        last = 2 * len(loader)
        return [
            (b.indices, b.patches.clone(), b.pairs.clone())
            for b in loader.batches(first, last)
            if b.pairs is not None
        ]

    whole, parted = batches(0), batches(3)
    assert len(whole) > 4 and len(parted) == len(whole) - 3
    for (indices, patches, pairs), (_, again, others) in zip(whole[3:], parted, strict=True):
        assert torch.equal(patches, again) and torch.equal(pairs, others)
        for index, patch, pair in zip(indices.tolist(), patches, pairs, strict=True):
            assert int(patch[0, 0, 0]) == grids.row[index]
            rows = {int(grids.row[other]) for other in _around(grids, index) or {index}}
            assert int(pair[0, 0, 0]) in rows
    first = whole[0][0]
    epoch = next(k for k in range(1, len(whole)) if set(whole[k][0].tolist()) & set(first.tolist()))
    assert not all(torch.equal(whole[0][2], whole[k][2]) for k in range(1, epoch + 1))


def test_a_batch_is_described_by_its_stores(tmp_path: Path) -> None:
    small_store(tmp_path / "a.h5", ("x", None, "y"), group="p1")
    small_store(tmp_path / "b.h5", ("y", "z"), group="p2", mpp_effective=None)
    collection = open_collection(tmp_path)
    patches, meta = first_batch(Asks, collection, torch.tensor([4, 1, 0]))
    assert meta is not None and torch.equal(meta.indices, torch.tensor([4, 1, 0]))
    assert meta.labels.tolist() == [2, -1, 0] and meta.store.tolist() == [1, 0, 0]
    assert meta.group.tolist() == [1, 0, 0] and meta.coords.tolist() == [[16, 0], [16, 0], [0, 0]]
    assert torch.isnan(meta.mpp[0]) and meta.mpp[1:].tolist() == [0.5, 0.5]
    assert meta.pairs is not None and meta.pairs.shape == patches.shape
    assert describer(Good, collection) is None and first_batch(Good, collection, torch.tensor([0]))[1] is None


def test_what_is_needed_and_missing_is_one_sentence(tmp_path: Path) -> None:
    encoder = build_backbone("squeezenet1_1", init="random")
    unlabelled = open_collection(patch_folder(tmp_path / "u"))
    with pytest.raises(UsageError, match=r"'m' needs patches labelled .* two classes, and the stores have 0"):
        check_needs(Asks, "m", unlabelled, encoder)
    with pytest.raises(UsageError, match="needs a backbone with tokens, and squeezenet1_1 has none: pass"):
        check_needs(Tokens, "m", unlabelled, encoder)
    check_needs(Tokens, "m", unlabelled, build_backbone("timm:test_vit", init="random"))
    labelled = open_collection(small_store(tmp_path / "l.h5", ("x", "y")))
    assert check_needs(Asks, "m", labelled, encoder) is not None
    apart = open_collection(
        [small_store(tmp_path / f"one{n}.h5", ("x", "y")[n : n + 1], classes=("x", "y")) for n in (0, 1)]
    )
    with pytest.raises(UsageError, match="no patch of these stores has a neighbour: tile with --stride"):
        check_needs(Asks, "m", apart, encoder)
