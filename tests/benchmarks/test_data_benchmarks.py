"""The benchmarks of stores, loader, augmentation and training step, so small that they only count.

Full size, with ratios: `python tests/benchmarks/bench_data.py`.
"""

from __future__ import annotations

from pathlib import Path

import bench_augment
import bench_data
import bench_gpu
import bench_loader
import bench_step
import bench_stores
import pytest
import torch
from side_by_side import Claim, measure, print_table, tissue_patches

# The peers are not ours to silence one by one.
pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


def test_measuring_counts_items_and_takes_turns(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []

    def candidate(name: str, items: int) -> int:
        calls.append(name)
        return items

    rates = measure({"a": lambda: candidate("a", 10), "b": lambda: candidate("b", 20)}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert set(rates) == {"a", "b"}
    claims = [Claim(ours="a", peer="b", factor=2), Claim(ours="a", peer="gone", factor=1)]
    print_table("title", {"a": 30.0, "b": 20.0}, claims)
    printed = capsys.readouterr().out
    assert "a / b: 1.50 (at least 2: NOT MET)" in printed
    assert "left out, gone is not installed" in printed


def test_every_reader_reads_the_same_pixels(tmp_path: Path) -> None:
    rates = bench_stores.run(tmp_path, tissue_patches(128, 64), batches=2, rounds=1)
    assert {"wsitool hdf5 raw", "wsitool zarr raw", "bare preadv loop", "zarr-python default"} <= set(rates)
    assert set(bench_stores.opening(tmp_path, 1000)) == {"h5 raw", "h5 jpeg", "zarr raw", "zarr jpeg"}


def test_every_loader_gives_every_patch(tmp_path: Path) -> None:
    rates = bench_loader.run(tmp_path, tissue_patches(130, 64), rounds=1)
    assert {"wsitool raw", "wsitool jpeg", "DataLoader(2) over h5[i]"} <= set(rates)


def test_memory_does_not_grow_over_epochs(tmp_path: Path) -> None:
    sizes = bench_loader.resident_megabytes(tmp_path, 2000)
    for _ in range(3):
        before = next(sizes)
    for _ in range(10):
        after = next(sizes)
    assert after < 1.02 * before


def test_augmentation_peers_run() -> None:
    patches = torch.from_numpy(tissue_patches(8, 64)).permute(0, 3, 1, 2)
    assert "torchvision v2 per sample" in bench_augment.run(patches, rounds=1)
    assert {"wsitool DINO", "lightly DINOTransform"} == set(bench_augment.multi_crop(patches, rounds=1))
    shares = bench_augment.shares(
        patches[:2, :, :32, :32], rounds=1, backbone="timm:test_vit", methods=["mae"]
    )
    assert 0 < shares["mae"] < 1


@pytest.mark.slow
def test_steps_run(tmp_path: Path) -> None:
    rates = bench_step.run(tmp_path, bench_step.small_model, number=128, size=32, steps=1, rounds=1)
    assert {"wsitool loader and augmentation", "the step alone, fixed views"} <= set(rates)


def test_every_script_feeds_the_same_step(capsys: pytest.CaptureFixture[str]) -> None:
    small = [
        "--device",
        "cpu",
        "--backbone",
        "resnet18",
        "--size",
        "32",
        "--batch-size",
        "4",
        "--patches",
        "16",
    ]
    bench_gpu.main([*small, "--seconds", "0.01", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "the step alone, fixed views" in printed and "DataLoader + torchvision v2" in printed
    assert "0 waits a batch" in printed


def test_one_command_runs_the_parts_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    for name in bench_data.PARTS:
        monkeypatch.setitem(bench_data.PARTS, name, lambda arguments, name=name: ran.append(name))
    bench_data.main(["step", "stores"])
    assert ran == ["step", "stores"]
    bench_data.main([])
    assert ran[2:] == ["stores", "loader", "augment", "step"]
    with pytest.raises(SystemExit):
        bench_data.main(["tiling"])
