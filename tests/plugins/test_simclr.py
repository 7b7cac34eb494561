from __future__ import annotations

import math

import pytest
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn

from wsitool_plugins.simclr import SimCLR, SimCLRParams, nt_xent


@pytest.mark.parametrize(
    ("temperature", "expected"), [(0.5, 2.831216992450), (0.1, 10.483494577470), (0.07, 14.846409154982)]
)
def test_nt_xent_on_the_reference_vectors(temperature: float, expected: float) -> None:
    i = torch.arange(32, dtype=torch.float64).reshape(4, 8)
    loss = nt_xent((0.37 * i + 0.11).sin(), (0.53 * i - 0.29).cos(), temperature)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_nt_xent_on_orthonormal_and_on_equal_vectors() -> None:
    two = torch.eye(2, 8, dtype=torch.float64)
    assert nt_xent(two, two, 0.5).item() == pytest.approx(0.239544766222, abs=1e-9)
    for n in (2, 5, 32):
        same = torch.ones(n, 8, dtype=torch.float64)
        assert nt_xent(same, same, 0.5).item() == pytest.approx(math.log(2 * n - 1), abs=1e-9)


def _by_the_paper(za: Tensor, zb: Tensor, temperature: float) -> float:
    """Equation 1 of arXiv:2002.05709, pair by pair."""
    z = [row / row.norm() for row in torch.cat([za, zb]).double()]
    n, total = len(za), 0.0
    for i in range(2 * n):
        similar = [math.exp(float(z[i] @ z[k]) / temperature) for k in range(2 * n)]
        total -= math.log(similar[(i + n) % (2 * n)] / (sum(similar) - similar[i]))
    return total / (2 * n)


@pytest.mark.parametrize("n", [2, 3, 16])
def test_nt_xent_agrees_with_the_paper_and_with_lightly(n: int) -> None:
    rng = torch.Generator().manual_seed(n)
    za, zb = torch.randn(n, 16, generator=rng), torch.randn(n, 16, generator=rng)
    ours = nt_xent(za, zb, 0.2).item()
    assert ours == pytest.approx(_by_the_paper(za, zb, 0.2), abs=1e-5)
    assert ours == pytest.approx(NTXentLoss(temperature=0.2)(za, zb).item(), abs=1e-5)


def test_half_precision_does_not_reach_the_loss() -> None:
    rng = torch.Generator().manual_seed(0)
    za, zb = torch.randn(4, 16, generator=rng), torch.randn(4, 16, generator=rng)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(za, zb, 0.07)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, nt_xent(za, zb, 0.07))


def _net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def test_ten_steps_agree_with_an_implementation_of_lightlys_parts() -> None:
    """Same start, same views: the losses agree to 1e-4 through ten steps of Adam."""
    torch.manual_seed(0)
    method = SimCLR(_net(), 8, SimCLRParams(hidden_dim=16, projection_dim=8))
    network, head = _net(), SimCLRProjectionHead(8, 16, 8)
    network.load_state_dict(method.backbone.state_dict())
    head.load_state_dict({f"layers.{key}": value for key, value in method.projection.state_dict().items()})
    criterion = NTXentLoss(temperature=0.5)
    ours = torch.optim.Adam(method.parameters(), lr=1e-2)
    theirs = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=1e-2)
    patches = torch.randint(0, 256, (8, 3, 24, 24), dtype=torch.uint8)
    for step in range(10):
        views = method.views(patches, torch.Generator().manual_seed(step))
        loss = method.loss(views).loss
        za, zb = head(network(torch.cat([views["a"], views["b"]]))).chunk(2)
        reference = criterion(za, zb)
        assert loss.item() == pytest.approx(reference.item(), abs=1e-4)
        for optimizer, value in ((ours, loss), (theirs, reference)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()


def test_projection_of_a_resnet50_is_2048_2048_128() -> None:
    method = SimCLR(nn.Identity(), 2048, SimCLRParams())
    shapes = [tuple(layer.weight.shape) for layer in method.projection if isinstance(layer, nn.Linear)]
    assert shapes == [(2048, 2048), (128, 2048)]


def test_temperature_is_always_logged() -> None:
    method = SimCLR(_net(), 8, SimCLRParams(temperature=0.3))
    patches = torch.randint(0, 256, (4, 3, 24, 24), dtype=torch.uint8)
    metrics = method.loss(method.views(patches, torch.Generator())).metrics
    assert metrics["temperature"].item() == pytest.approx(0.3)
    assert 0 <= metrics["top1"].item() <= 1


def test_the_histology_preset_flips_and_stains() -> None:
    params = SimCLRParams.from_preset("histology", {"hed": 0.1})
    assert params.d4 and params.min_scale == 0.3 and params.hed == 0.1
    assert params.temperature == 0.1
    assert SimCLRParams.from_preset("paper", {}) == SimCLRParams()
