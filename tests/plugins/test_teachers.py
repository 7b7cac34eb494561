"""Teachers, queues and stopped gradients: what a loss function alone does not show."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import Method, ema_update, frozen_copy
from wsitool.testing.subject import Subject, TinyBackbone
from wsitool.training.config import PretrainConfig
from wsitool.training.optim import learning_rate, make_optimizer, set_rates
from wsitool_plugins.byol import BYOL, BYOLParams
from wsitool_plugins.moco import MoCo, MoCoParams
from wsitool_plugins.simsiam import SimSiam, SimSiamParams

PATCHES = Subject(cls=SimSiam).patches(6)


def _views(method: Method[Any], seed: int = 0) -> dict[str, Tensor]:
    return method.views(PATCHES, Generator().manual_seed(seed))


def _moco(**values: Any) -> MoCo:
    torch.manual_seed(0)
    return MoCo(TinyBackbone(), 16, MoCoParams(**values))


def test_ema_update_is_the_weighted_mean_and_leaves_buffers_alone() -> None:
    student = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    teacher = frozen_copy(student)
    before = [value.clone() for value in teacher.parameters()]
    with torch.no_grad():
        for value in student.parameters():
            value += 1
    student(torch.randn(4, 2))
    ema_update(teacher, student, 0.9)
    assert not any(value.requires_grad for value in teacher.parameters())
    for new, old in zip(teacher.parameters(), before, strict=True):
        torch.testing.assert_close(new, old + 0.1)
    assert torch.equal(teacher[1].running_mean, torch.zeros(2))  # type: ignore[index]


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_byols_momentum_rises_to_one_along_a_cosine(progress: float, momentum: float) -> None:
    method = BYOL(TinyBackbone(), 16, BYOLParams(hidden_dim=8, projection_dim=4, momentum=0.9))
    teacher = next(method.teacher_backbone.parameters())
    student = next(method.backbone.parameters())
    with torch.no_grad():
        student += 1
    expected = momentum * teacher + (1 - momentum) * student
    method.after_step(progress)
    torch.testing.assert_close(teacher, expected.detach())


def test_byol_is_symmetric_and_spares_the_teacher() -> None:
    method = BYOL(TinyBackbone(), 16, BYOLParams(hidden_dim=8, projection_dim=4))
    views = _views(method)
    loss = method.loss(views).loss
    torch.testing.assert_close(loss, method.loss({"a": views["b"], "b": views["a"]}).loss)
    loss.backward()
    teacher = (*method.teacher_backbone.parameters(), *method.teacher_projection.parameters())
    assert all(value.grad is None for value in teacher)
    assert 0 <= loss.item() <= 8


def test_simsiams_output_std_tells_collapse_from_a_full_sphere() -> None:
    method = SimSiam(TinyBackbone(), 16, SimSiamParams(projection_dim=512, predictor_dim=4))
    views = {name: torch.rand(64, 3, 16, 16) for name in "ab"}
    method.projection = nn.Linear(16, 512)
    nn.init.zeros_(method.projection.weight)
    assert float(method.loss(views).metrics["output_std"]) < 1e-4
    method.projection = nn.Sequential(nn.Linear(16, 512), _Noise())
    assert float(method.loss(views).metrics["output_std"]) == pytest.approx(1, abs=0.05)


class _Noise(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return torch.randn_like(values)


def test_moco_queues_unit_keys_in_order_and_wraps() -> None:
    method = _moco(queue=10, projection_dim=4)
    first = method.negatives.clone()
    torch.testing.assert_close(first.norm(dim=1), torch.ones(10))
    views = _views(method)
    with torch.no_grad():
        keys = F.normalize(method.key_projection(method.key_backbone(views["b"])), dim=1)
    method.loss(views)
    assert torch.equal(method.negatives, first)  # nothing changes before the step is done
    method.after_step(0.5)
    torch.testing.assert_close(method.negatives[:6], keys)
    assert torch.equal(method.negatives[6:], first[6:]) and int(method.place) == 6
    method.loss(views)
    method.after_step(0.6)
    assert int(method.place) == 2
    assert not torch.equal(method.negatives[6:], first[6:])


def test_moco_keeps_the_newest_keys_of_a_batch_larger_than_the_queue() -> None:
    method = _moco(queue=4, projection_dim=4)
    views = _views(method)
    with torch.no_grad():
        keys = F.normalize(method.key_projection(method.key_backbone(views["b"])), dim=1)
    method.loss(views)
    method.after_step(0.0)
    torch.testing.assert_close(method.negatives, keys[-4:])


def test_moco_queues_every_accumulated_batch_and_none_of_validation() -> None:
    method = _moco(queue=64)
    for seed in range(3):
        method.loss(_views(method, seed))
    method.eval()
    method.loss(_views(method))
    method.after_step(0.1)
    assert int(method.place) == 18
    method.after_step(0.2)
    assert int(method.place) == 18


def test_mocos_key_encoder_follows_slowly() -> None:
    method = _moco(queue=8, momentum=0.75)
    key, student = next(method.key_backbone.parameters()), next(method.backbone.parameters())
    with torch.no_grad():
        student += 1
    expected = key + 0.25
    method.after_step(0.0)
    torch.testing.assert_close(key, expected.detach())
    assert not key.requires_grad


def test_mocos_loss_is_the_chance_loss_where_everything_is_alike() -> None:
    method = _moco(queue=8)
    method.negatives[:] = F.normalize(torch.ones(8, 128), dim=1)
    nn.init.zeros_(method.projection[2].weight)
    nn.init.ones_(method.projection[2].bias)
    method.key_projection = frozen_copy(method.projection)
    step = method.loss(_views(method))
    torch.testing.assert_close(step.loss.detach(), step.metrics["chance_loss"])
    assert step.metrics["chance_loss"].item() == pytest.approx(math.log(9))


def test_simsiams_predictor_keeps_the_highest_rate() -> None:
    method = SimSiam(TinyBackbone(), 16, SimSiamParams(projection_dim=16, predictor_dim=4))
    config = PretrainConfig(method="simsiam", optimizer="sgd", lr=0.5, weight_decay=0.1, warmup=0.2)
    optimizer = make_optimizer(method, config)
    own = {id(weight) for weight in method.predictor.parameters()}
    for step in (0, 5, 9):
        set_rates(optimizer, config, step, 10)
        for group in optimizer.param_groups:
            rate = 0.5 if id(group["params"][0]) in own else learning_rate(config, step, 10)
            assert group["lr"] == pytest.approx(rate)
            assert {id(weight) in own for weight in group["params"]} == {id(group["params"][0]) in own}
            # decayed as the others are
            assert group["weight_decay"] == (0.1 if group["params"][0].ndim > 1 else 0.0)
    assert id(optimizer.param_groups[0]["params"][0]) not in own  # by which the run's rate is told
