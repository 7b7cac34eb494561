from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wsitool.training.config import PretrainConfig
from wsitool.training.optim import Lars, learning_rate, make_optimizer


def _config(**options: object) -> PretrainConfig:
    return PretrainConfig(method="simclr", **options)  # type: ignore[arg-type]


def test_warm_up_rises_and_cosine_falls_to_nothing() -> None:
    config = _config(lr=1.0, warmup=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    expected = [0.5 * (1 + math.cos(math.pi * step / 90)) for step in range(90)]
    assert rates[10:] == pytest.approx(expected)
    assert learning_rate(_config(lr=0.5, schedule="constant"), 99, 100) == 0.5


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lars"])
def test_biases_and_norms_are_not_decayed(name: str) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = make_optimizer(module, _config(optimizer=name, weight_decay=0.1))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(module[0].weight)}


def test_frozen_parameters_are_left_alone() -> None:
    module = nn.Linear(4, 4)
    module.bias.requires_grad_(False)
    optimizer = make_optimizer(module, _config())
    assert [p.shape for group in optimizer.param_groups for p in group["params"]] == [(4, 4)]


def test_lars_is_the_papers_update() -> None:
    weight, bias = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.tensor([2.0]))
    groups = [{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "adapt": False}]
    optimizer = Lars(groups, lr=0.5, momentum=0.9, trust=0.01)
    expected_w, expected_b = weight.detach().clone(), bias.detach().clone()
    velocity_w, velocity_b = torch.zeros_like(expected_w), torch.zeros_like(expected_b)
    for step in range(3):
        weight.grad, bias.grad = torch.tensor([[1.0, -1.0 * step]]), torch.tensor([0.5])
        update = weight.grad + 0.1 * expected_w
        velocity_w = 0.9 * velocity_w + update * 0.01 * expected_w.norm() / update.norm()
        velocity_b = 0.9 * velocity_b + 0.5
        expected_w, expected_b = expected_w - 0.5 * velocity_w, expected_b - 0.5 * velocity_b
        optimizer.step()
        assert torch.allclose(weight, expected_w, atol=1e-6)
        assert torch.allclose(bias, expected_b, atol=1e-6)
