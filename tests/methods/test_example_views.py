"""Views without training: what the method's own `views` gives for the same patches and generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wsitool.errors import UnknownMethodError, UsageError
from wsitool.methods.example_views import example_views
from wsitool.store.collection import Collection, open_collection
from wsitool.testing.stores import write_example
from wsitool.training.bench import BenchResult, bench


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    write_example(tmp_path / "a.h5", "jpeg", 30, size=32)
    return open_collection(tmp_path)


def test_rotation_shows_the_four_turns(collection: Collection) -> None:
    columns = example_views(collection, method="rotation", number=4, seed=3)
    assert list(columns) == ["original", *(f"images {turn + 1}" for turn in range(4))]
    for turn in range(4):
        expected = torch.rot90(torch.from_numpy(columns["original"]), turn, (1, 2)).numpy()
        # rot90 over (y, x) in this axis order turns as rot90 over (-2, -1) of channels-first images does
        assert np.array_equal(columns[f"images {turn + 1}"], expected)


def test_simclr_shows_two_views_that_depend_on_seed_and_parameters(collection: Collection) -> None:
    first = example_views(collection, method="simclr", number=4)
    again = example_views(collection, method="simclr", number=4)
    other = example_views(collection, method="simclr", number=4, seed=1)
    plain = example_views(collection, method="simclr", number=4, params={"strength": 0.0, "blur_p": 0.0})
    assert list(first) == ["original", "a", "b"]
    assert all(images.shape == (4, 32, 32, 3) and images.dtype == np.uint8 for images in first.values())
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["a"], other["a"])
    assert not np.array_equal(first["a"], first["b"])
    assert not np.array_equal(first["a"], plain["a"])


def test_image_size_and_fewer_patches_than_asked(collection: Collection) -> None:
    columns = example_views(collection, method="simclr", number=100, image_size=16)
    assert {images.shape for images in columns.values()} == {(30, 16, 16, 3)}


def test_unknown_names_are_refused(collection: Collection) -> None:
    with pytest.raises(UnknownMethodError, match="did you mean 'simclr'"):
        example_views(collection, method="simclrr")
    with pytest.raises(UsageError, match="Unknown parameter tau"):
        example_views(collection, method="simclr", params={"tau": 1})


def test_bench_measures_every_stage(collection: Collection) -> None:
    result = bench(collection, batch_size=8, seconds=0.01, device="cpu")
    assert min(result.read, result.load, result.augment, result.step, result.expected) > 0
    assert result.decode is not None
    assert result.expected <= min(result.load, result.augment, result.step)
    with pytest.raises(UsageError, match="a batch of 64 patches, and there are 30"):
        bench(collection)


def test_bench_names_the_bottleneck() -> None:
    def made(load: float, augment: float, step: float, training: float, device: str = "cpu") -> str:
        return BenchResult(
            device=device,
            precision="32",
            threads=2,
            batch_size=8,
            read=1,
            decode=None,
            load=load,
            upload=None,
            augment=augment,
            step=step,
            training=training,
            kernels=4321,
            waits=0,
        ).advice

    assert made(100, 1000, 1000, 90).startswith("Data limits")
    assert made(1e5, 500, 1000, 330).startswith("Augmentation limits")
    assert made(1e5, 1000, 500, 330).startswith("The model limits")
    assert made(1e5, 1e5, 500, 490, "cuda").startswith("The model limits")
    assert made(1e5, 1e5, 500, 400, "cuda").startswith("The host limits: 4,321 operations")
