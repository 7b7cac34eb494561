"""Two gloo processes are one process with the batch of both."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from patch_stores import patch_folder
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wsitool.backbones.build import build_backbone
from wsitool.training.sync_norm import synchronise
from wsitool_plugins.simclr import SimCLR, SimCLRParams

WORLD = 2
_WSITOOL = str(Path(sys.executable).with_name("wsitool"))


def _simclr() -> SimCLR:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return SimCLR(network, 8, SimCLRParams(hidden_dim=16, projection_dim=8)).double()


def _views() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {name: torch.rand(8, 3, 12, 12, generator=rng, dtype=torch.float64) for name in ("a", "b")}


class _Loss(nn.Module):
    def __init__(self, method: SimCLR) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: dict[str, Tensor]) -> Tensor:
        return self.method.loss(views).loss


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    method = _simclr()
    synchronise(method)
    network = DistributedDataParallel(_Loss(method))
    loss = network({name: view.chunk(WORLD)[rank] for name, view in _views().items()})
    loss.backward()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    if rank == 0:
        gradients = {name: parameter.grad for name, parameter in method.named_parameters()}
        state = {"loss": mean / WORLD, "gradients": gradients, "buffers": dict(method.named_buffers())}
        torch.save(state, Path(folder, "rank0.pt"))
    dist.destroy_process_group()


def test_simclr_has_the_loss_gradients_and_statistics_of_one_process(tmp_path: Path) -> None:
    mp.spawn(_rank, (str(tmp_path),), nprocs=WORLD)
    two = torch.load(tmp_path / "rank0.pt", weights_only=True)
    method = _simclr()
    loss = method.loss(_views()).loss
    loss.backward()
    assert loss.item() == pytest.approx(two["loss"].item(), abs=1e-6)
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, two["gradients"][name], atol=1e-6), name
        assert parameter.grad.abs().max() > 1e-5, name  # or the comparison says nothing
    for name, buffer in method.named_buffers():
        assert torch.allclose(buffer, two["buffers"][name], atol=1e-6), name


def test_synchronised_norms_keep_keys_weights_and_single_process_results() -> None:
    method, plain = _simclr(), _simclr()
    plain.backbone[1].momentum = None  # a running mean over all batches
    method.backbone[1].momentum = None
    synchronise(method)
    assert method.state_dict().keys() == plain.state_dict().keys()
    for _ in range(2):
        assert torch.equal(method.loss(_views()).loss, plain.loss(_views()).loss)
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, method.get_buffer(name)), name


def _train(stores: Path, out: Path, *words: str) -> None:
    command = [_WSITOOL, "pretrain", str(stores), "--method", "rotation", "--out", str(out)]
    quick = ["--backbone", "resnet18", "--init", "random", "--epochs", "1", "--device", "cpu"]
    plain = ["--optimizer", "sgd", "--lr", "1.0"]
    done = subprocess.run(
        [*command, *quick, *plain, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("encoder.safetensors") == 1, done.stdout  # one process reports
    assert "Warning" not in done.stderr, done.stderr


def _losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_two_devices_from_the_command_line_train_as_one(tmp_path: Path) -> None:
    """RotNet draws nothing at random: the same batch on two devices is the same step.

    In float32 the last bits grow a thousandfold on their way down through twenty batch norms, hence the wider
    bound at the bottom; the law above holds to 1e-6 in float64.
    """
    stores = patch_folder(tmp_path / "kidney", each=4)
    _train(stores, tmp_path / "two", "--device", "cpu,cpu", "--batch-size", "4")
    _train(stores, tmp_path / "one", "--device", "cpu", "--batch-size", "8")
    assert _losses(tmp_path / "two") == pytest.approx(_losses(tmp_path / "one"), abs=1e-5)
    start = build_backbone("resnet18", init="random").trunk.state_dict()
    one, two = (load_file(tmp_path / name / "encoder.safetensors") for name in ("one", "two"))
    for name, bound in (("layer4.1.conv2.weight", 1e-3), ("conv1.weight", 0.1)):
        step = one[name] - start[name]
        assert (two[name] - one[name]).norm() < bound * step.norm(), name
    assert torch.allclose(one["bn1.running_mean"], two["bn1.running_mean"], atol=1e-5)


@pytest.mark.slow
def test_a_run_on_one_device_goes_on_on_two_and_for_longer(tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "kidney", each=8)
    rate = ("--schedule", "constant", "--lr", "0.01")
    _train(stores, tmp_path / "r", *rate, "--batch-size", "8", "--keep-checkpoint")
    on_two = ("--batch-size", "4", "--device", "cpu,cpu", "--epochs", "2")
    _train(stores, tmp_path / "r", *rate, *on_two, "--resume")
    _train(stores, tmp_path / "whole", *rate, "--batch-size", "8", "--epochs", "2")
    assert _losses(tmp_path / "r") == pytest.approx(_losses(tmp_path / "whole"), abs=1e-3)
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    changed = {"epochs": [1, 2], "batch_size": [8, 4], "device": ["cpu", "cpu,cpu"]}
    assert record["history"] == [{"batches": 2, "changed": changed}]
