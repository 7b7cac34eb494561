"""A step of every built-in method on a device that is no CPU: it runs, waits for nothing, and copies once."""

from __future__ import annotations

import math

import pytest
import torch
from accelerator import DEVICE, accelerator
from torch import Tensor, nn

from wsitool.api import Progress
from wsitool.backbones.build import build_backbone
from wsitool.backbones.features import as_images
from wsitool.backbones.precision import Precision
from wsitool.methods.registry import load_method
from wsitool.testing.subject import Subject
from wsitool.training.config import OPTIMIZERS, PretrainConfig
from wsitool.training.module import compute_step
from wsitool.training.monitor import _means_over_ranks
from wsitool.training.optim import hold_frozen, make_optimizer, set_rates

_METHODS = (
    *("rotation", "jitter-rotation", "simclr", "byol", "simsiam", "vicreg", "barlow-twins", "moco"),
    *("context-encoder", "supcon", "neighbours", "dino", "mae", "ibot"),
)


def _patches() -> Tensor:
    return torch.empty((8, 32, 32, 3), dtype=torch.uint8, device=DEVICE).permute(0, 3, 1, 2)


@pytest.mark.parametrize("preset", ["paper", "histology"])
@pytest.mark.parametrize("name", _METHODS)
def test_a_step_of_each_method_never_waits(name: str, preset: str) -> None:
    kind = load_method(name)
    encoder = build_backbone("timm:test_vit" if "tokens" in kind.needs else "resnet18", init="random")
    method = kind(encoder, encoder.feature_dim, kind.params_type.from_preset(preset, {})).to(DEVICE)
    config = PretrainConfig(method=name, image_size=48, clip_grad=1.0).with_recipe(kind.recipe)
    optimizer = make_optimizer(method, config)
    patches = _patches()
    meta = Subject(cls=kind).meta(patches)
    with accelerator() as counted:
        method.before_step(Progress(step=1, steps=10, epoch=0, share=0.1, lr=0.1))
        step = compute_step(method, patches, config, 3, meta=meta)
        step.loss.backward()  # type: ignore[no-untyped-call]  # torch's, unannotated
        hold_frozen(optimizer, 0.0)
        Precision("32", DEVICE).clip(optimizer, config.recipe.clip_grad)
        set_rates(optimizer, config, 1, 10)
        optimizer.step()
        with torch.no_grad():
            method.after_step(0.5)
    assert step.loss.device == DEVICE
    assert counted.uploads <= 3 and counted.waits == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_a_few_calls_whatever_the_number_of_weights(name: str) -> None:
    network = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(30))).to(
        DEVICE
    )
    optimizer = make_optimizer(network, PretrainConfig(method="simclr", optimizer=name))
    for weight in network.parameters():
        weight.grad = torch.empty_like(weight)
    optimizer.step()  # makes its state
    with accelerator() as counted:
        optimizer.step()
    if name == "lars":  # torch's own are counted by torch
        assert counted.kernels.total() <= 24, counted.kernels
    assert counted.uploads == 0


def test_metrics_of_the_cpu_beside_a_loss_of_a_device_are_looked_at_together() -> None:
    pending = [{"loss": torch.tensor(0.5 + n), "temperature": torch.tensor(0.25)} for n in range(3)]
    pending[1]["top1"] = torch.tensor(math.nan)
    means = _means_over_ranks(pending)
    assert means[0] == {"loss": 0.5, "temperature": 0.25} and means[2]["loss"] == 2.5
    assert math.isnan(means[1]["top1"]) and _means_over_ranks([]) == []
    on_device = [{"loss": torch.empty((), device=DEVICE), "temperature": torch.tensor(0.25)}]
    # Read once, at the very end: what comes before must hold on any device.
    with accelerator() as counted, pytest.raises(NotImplementedError, match="meta"):
        _means_over_ranks(on_device)
    assert counted.uploads == 1


def test_features_and_logits_of_bytes_need_floats_on_a_device() -> None:
    encoder = build_backbone("resnet18", init="random").to(DEVICE)
    patches = _patches()
    with accelerator() as counted, torch.inference_mode():
        features = encoder(as_images(patches, 24))
    assert features.shape == (8, 512) and counted.uploads == 0


def test_the_stand_in_fails_where_a_gpu_would() -> None:
    patches = _patches()
    with accelerator(), pytest.raises(AssertionError, match="_upsample_bilinear2d_aa"):
        torch.nn.functional.interpolate(patches, size=(8, 8), mode="bilinear", antialias=True)
    with accelerator(), pytest.raises(AssertionError, match=r"cpu.*meta"):
        patches.float() + torch.zeros(32)
    with accelerator(), pytest.raises(RuntimeError, match="meta"):
        bool(patches.float().sum() > 0)
    with accelerator() as counted:
        torch.zeros(3).to(DEVICE)
    assert counted.waits == 1
