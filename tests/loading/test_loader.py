"""The loader against the collection it reads: coverage, resume, damage, memory."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from wsitool.errors import CorruptStoreError, UsageError
from wsitool.loading import Batch, PatchDataset, PatchLoader
from wsitool.store.collection import Collection, open_collection
from wsitool.store.opening import open_store
from wsitool.testing.stores import write_example


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    write_example(tmp_path / "a.h5", "raw", 41, seed=1, name="a")
    write_example(tmp_path / "b.zarr", "jpeg", 30, seed=2, name="b")
    write_example(tmp_path / "c.h5", "jpeg", 30, seed=3, name="c")
    write_example(tmp_path / "d.zarr", "raw", 2, seed=4, name="d")
    return open_collection(tmp_path)


def _indices(batches: list[Batch]) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def test_batches_are_the_patches_and_labels_of_the_collection(collection: Collection) -> None:
    for batch in PatchLoader(collection, batch_size=16):
        assert batch.patches.dtype == torch.uint8
        assert batch.patches.shape == (len(batch), 3, 32, 32)
        assert batch.patches.is_contiguous(memory_format=torch.channels_last)
        assert batch.indices.dtype == batch.labels.dtype == torch.int64
        expected = collection.read(batch.indices.numpy())
        assert np.array_equal(batch.patches.permute(0, 2, 3, 1).numpy(), expected)
        assert np.array_equal(batch.labels.numpy(), collection.labels[batch.indices.numpy()])


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("threads", [1, 4])
def test_every_epoch_covers_everything_once_over_all_ranks(
    collection: Collection, world_size: int, threads: int
) -> None:
    loaders = [
        PatchLoader(collection, batch_size=10, rank=rank, world_size=world_size, threads=threads)
        for rank in range(world_size)
    ]
    epochs = []
    for _ in range(3):
        batches = [list(loader) for loader in loaders]
        assert {len(own) for own in batches} == {len(loaders[0])}
        seen = [index for own in batches for batch in own for index in batch.indices.tolist()]
        assert sorted(seen) == list(range(103))
        epochs.append(seen)
    assert epochs[0] != epochs[1] != epochs[2]
    loaders[0].set_epoch(0)
    again = _indices(list(loaders[0]))
    assert again == _indices(list(PatchLoader(collection, batch_size=10, world_size=world_size, threads=2)))


def test_kept_batches_are_not_overwritten(collection: Collection) -> None:
    loader = PatchLoader(collection, batch_size=8, threads=3)
    batches = list(loader)
    views = [batch.patches[-1, 0, :5] for batch in batches]
    for batch, view in zip(batches, views, strict=True):
        expected = collection.read(batch.indices.numpy())
        assert np.array_equal(batch.patches.permute(0, 2, 3, 1).numpy(), expected)
        assert np.array_equal(view.numpy(), expected[-1, :5, :, 0])


def test_memory_is_reused_over_epochs(collection: Collection) -> None:
    loader = PatchLoader(collection, batch_size=8, threads=2)
    before = set(threading.enumerate())  # other tests of this process may have left some
    for _ in range(20):
        for batch in loader:
            del batch
    assert len(loader._buffers) <= 5
    assert len(set(threading.enumerate()) - before) <= 3


@pytest.mark.parametrize("world_size", [1, 2])
def test_stop_after_any_batch_and_go_on(collection: Collection, world_size: int) -> None:
    def loader() -> PatchLoader:
        return PatchLoader(collection, batch_size=16, seed=5, rank=world_size - 1, world_size=world_size)

    whole = loader()
    truth = _indices([batch for _ in range(3) for batch in whole])
    steps = len(whole)
    for stop in range(2 * steps + 1):
        first, taken = loader(), []
        while len(taken) < stop:
            for batch in first:
                taken.append(batch.indices.tolist())
                if len(taken) == stop:
                    state = json.loads(json.dumps(first.state_dict()))
                    break
        state = json.loads(json.dumps(first.state_dict()))
        second = loader()
        second.load_state_dict(state)
        while len(taken) < 3 * steps:
            taken += _indices(list(second))
        assert taken == truth, f"stopped after {stop}"


def test_a_broken_off_iteration_does_not_shorten_the_next(collection: Collection) -> None:
    loader = PatchLoader(collection, batch_size=16)
    first = next(iter(loader)).indices.tolist()
    assert _indices(list(loader))[0] == first
    assert len(list(loader)) == len(loader)


def test_resume_with_other_settings_is_refused(collection: Collection) -> None:
    state = PatchLoader(collection, batch_size=16).state_dict()
    for other, match in (
        (PatchLoader(collection, batch_size=8), "batch_size 16, as it is now 8"),
        (PatchLoader(collection, batch_size=16, seed=1), "seed 0"),
        (PatchLoader(collection.subset(range(90)), batch_size=16), "collection"),
    ):
        with pytest.raises(UsageError, match=match):
            other.load_state_dict(state)


def test_batches_go_on_over_epochs_with_the_same_threads(collection: Collection) -> None:
    loader = PatchLoader(collection, batch_size=10, threads=2, seed=5)
    epochs = [_indices(list(loader)) for _ in range(3)]
    again = PatchLoader(collection, batch_size=10, threads=2, seed=5)
    submitted: list[int] = []
    real = again._submit

    def counted(*args: Any) -> Any:
        submitted.append(1)
        return real(*args)

    again._submit = counted  # type: ignore[method-assign]
    first, last, seen = 2, 3 * len(again), []
    for number, batch in enumerate(again.batches(first, last), first):
        seen += batch.indices.tolist()
        # Also at the border of two epochs the threads are as far ahead as within one.
        assert len(submitted) == min(number - first + 1 + 2, last - first)
        assert (again.epoch, again.state_dict()["step"]) == divmod(number + 1, len(again))
    assert seen == [index for epoch in epochs for batch in epoch for index in batch][20:]


def test_no_shuffle_is_the_collections_order(collection: Collection) -> None:
    batches = list(PatchLoader(collection, batch_size=50, shuffle=False))
    assert [index for own in _indices(batches) for index in own] == list(range(103))


def test_drop_last_gives_equal_batches(collection: Collection) -> None:
    sizes = [len(batch) for batch in PatchLoader(collection, batch_size=16, drop_last=True)]
    assert sizes == [16] * 6


def test_balance_over_slides(collection: Collection) -> None:
    loader = PatchLoader(collection, batch_size=20, balance="slides")
    seen = np.concatenate([batch.indices.numpy() for batch in loader])
    assert sorted(np.bincount(collection.store_index[seen]).tolist()) == [25, 26, 26, 26]


def _damage(path: Path, rows: list[int]) -> None:
    stored = open_store(path).encoded(rows)
    content = bytearray(path.read_bytes())
    for data in stored:
        at = content.find(data)
        content[at : at + len(data)] = bytes(len(data))
    path.write_bytes(content)


def test_a_corrupt_patch_is_skipped_counted_and_reported(tmp_path: Path) -> None:
    expected = write_example(tmp_path / "a.h5", "jpeg", 100)
    _damage(tmp_path / "a.h5", [17])
    loader = PatchLoader(open_collection(tmp_path), batch_size=10)
    for _ in range(2):
        batches = list(loader)
        seen = sorted(index for own in _indices(batches) for index in own)
        assert seen == [index for index in range(100) if index != 17]
        for batch in batches:
            assert np.array_equal(batch.patches.permute(0, 2, 3, 1).numpy(), expected[batch.indices.numpy()])
    assert list(loader.stats.bad) == [17]
    assert loader.stats.bad[17].reason
    assert loader.stats.patches == 198


def test_ranks_keep_equal_batches_where_a_patch_is_corrupt(tmp_path: Path) -> None:
    expected = write_example(tmp_path / "a.h5", "jpeg", 100)
    _damage(tmp_path / "a.h5", [17])
    collection = open_collection(tmp_path)
    ranks = [list(PatchLoader(collection, batch_size=10, rank=rank, world_size=2)) for rank in range(2)]
    assert [len(batch) for batch in ranks[0]] == [len(batch) for batch in ranks[1]] == [10] * 5
    seen = [index for own in ranks for batch in own for index in batch.indices.tolist()]
    assert set(seen) == set(range(100)) - {17}
    assert len(seen) == 100
    for batch in [*ranks[0], *ranks[1]]:
        assert np.array_equal(batch.patches.permute(0, 2, 3, 1).numpy(), expected[batch.indices.numpy()])


def test_too_many_corrupt_patches_are_fatal(tmp_path: Path) -> None:
    write_example(tmp_path / "a.h5", "jpeg", 100)
    _damage(tmp_path / "a.h5", [3, 17, 50])
    loader = PatchLoader(open_collection(tmp_path), batch_size=10, max_bad_share=0.02)
    with pytest.raises(
        CorruptStoreError, match=r"3 of 100 patches cannot be read and 2 may be skipped; .*a\.h5"
    ):
        list(loader)


def test_a_store_deleted_or_replaced_between_epochs_is_reported(tmp_path: Path) -> None:
    write_example(tmp_path / "a.h5", "raw", 40)
    loader = PatchLoader(open_collection(tmp_path), batch_size=10)
    list(loader)
    content = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").unlink()
    with pytest.raises(CorruptStoreError, match=r"a\.h5 was deleted or moved while it was in use"):
        list(loader)
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(CorruptStoreError, match=r"a\.h5 was replaced or changed while it was in use"):
        list(loader)


def test_a_store_truncated_during_an_epoch_is_reported(tmp_path: Path) -> None:
    write_example(tmp_path / "a.h5", "raw", 200)
    batches = iter(PatchLoader(open_collection(tmp_path), batch_size=10, threads=1))
    next(batches)
    with (tmp_path / "a.h5").open("r+b") as file:
        file.truncate(50_000)
    with pytest.raises(CorruptStoreError, match="the file ends before its bytes"):
        list(batches)


def test_bad_arguments(collection: Collection) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"batch_size": 0}, "at least 1, got 0"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "less than 2, got 2"),
        ({"batch_size": 4, "rank": 0, "world_size": 200}, "103 patches are too few for 200 rank"),
        ({"batch_size": 4, "threads": 0}, "at least 1 reader thread"),
    ]
    for arguments, match in bad:
        with pytest.raises(UsageError, match=match):
            PatchLoader(collection, **arguments)


def test_statistics_add_up(collection: Collection) -> None:
    loader = PatchLoader(collection, batch_size=16)
    list(loader)
    stats = loader.stats
    encoded = sum(len(data) for store in collection.stores for data in store.encoded(range(len(store))))
    assert (stats.batches, stats.patches, stats.bytes_read) == (7, 103, encoded)
    assert stats.wait_seconds > 0 and stats.read_seconds > 0 and stats.decode_seconds > 0
    assert stats.bad == {}


@pytest.mark.parametrize("workers", [0, 2])
def test_dataset_serves_a_stock_dataloader(collection: Collection, workers: int) -> None:
    dataset = PatchDataset(collection)
    assert len(dataset) == 103
    patch, label = dataset[102]
    assert torch.equal(patch, torch.from_numpy(collection.read([102])[0]).permute(2, 0, 1))
    assert label == collection.labels[102]
    assert torch.equal(dataset[-1][0], patch)
    with pytest.raises(IndexError):
        dataset[103]
    context = "forkserver" if workers else None
    loader = DataLoader(dataset, batch_size=20, num_workers=workers, multiprocessing_context=context)
    patches = torch.cat([batch for batch, _ in loader]).permute(0, 2, 3, 1)
    assert np.array_equal(patches.numpy(), collection.read(range(103)))


def test_dataset_transform(collection: Collection) -> None:
    dataset = PatchDataset(collection, transform=lambda patch: patch.float().mean())
    values = [float(value) for value, _ in dataset.__getitems__([5, 1])]
    assert values == pytest.approx(collection.read([5, 1]).mean(axis=(1, 2, 3)).tolist(), rel=1e-5)


# Lightning 2.6 asks torch 2.14 about pytrees in a way that torch deprecates
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_works_as_a_lightning_dataloader(collection: Collection) -> None:
    import pytorch_lightning as pl

    seen: list[int] = []

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch: Batch, _: int) -> torch.Tensor:
            seen.extend(batch.indices.tolist())
            return self.weight.sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True
    )
    trainer.fit(Model(), PatchLoader(collection, batch_size=16))
    assert sorted(seen) == sorted([*range(103), *range(103)])
    assert seen[:103] != seen[103:]
