"""Losses of the built-in methods against lightly's and against slow transcriptions of their papers."""

from __future__ import annotations

import math

import lightly.loss
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsitool_plugins import barlow_twins, byol, moco, simsiam, vicreg

TOLERANCE = 1e-5


@pytest.fixture(params=[(2, 8), (7, 16), (32, 64)], ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    n, width = request.param
    rng = torch.Generator().manual_seed(n)
    za = torch.randn((n, width), generator=rng)
    return za, 0.7 * za + torch.randn((n, width), generator=rng) + 0.3


def _close(ours: Tensor, theirs: Tensor | float) -> None:
    assert float(ours.detach()) == pytest.approx(
        float(torch.as_tensor(theirs).detach()), rel=TOLERANCE, abs=TOLERANCE
    )


def test_byol_is_twice_lightlys_negative_cosine_plus_two(pair: tuple[Tensor, Tensor]) -> None:
    za, zb = pair
    _close(byol.regression_loss(za, zb), 2 + 2 * lightly.loss.NegativeCosineSimilarity()(za, zb))
    slow = 0.0
    for p, z in zip(za.double(), zb.double(), strict=True):
        slow += float((p / p.norm() - z / z.norm()).square().sum()) / len(za)  # equation 2
    _close(byol.regression_loss(za, zb), slow)


def test_simsiam_is_lightlys_negative_cosine_with_the_gradient_stopped(pair: tuple[Tensor, Tensor]) -> None:
    za, zb = (z.requires_grad_() for z in pair)
    loss = simsiam.negative_cosine(za, zb)
    _close(loss, lightly.loss.NegativeCosineSimilarity()(za, zb))
    loss.backward()
    assert za.grad is not None and zb.grad is None


@pytest.mark.parametrize("redundancy", [0.005, 1.0])
def test_barlow_twins_is_lightlys(pair: tuple[Tensor, Tensor], redundancy: float) -> None:
    za, zb = pair
    ours = barlow_twins.barlow_twins_loss(za, zb, redundancy)
    _close(ours, lightly.loss.BarlowTwinsLoss(lambda_param=redundancy)(za, zb))


def test_barlow_twins_is_the_papers() -> None:
    rng = torch.Generator().manual_seed(0)
    za, zb = torch.randn((9, 4), generator=rng).double(), torch.randn((9, 4), generator=rng).double()
    a, b = ((z - z.mean(0)) / z.std(0, correction=0) for z in (za, zb))
    slow = 0.0
    for i in range(4):
        for j in range(4):
            c = sum(float(a[n, i] * b[n, j]) for n in range(9)) / 9  # equation 2
            slow += (1 - c) ** 2 if i == j else 0.005 * c**2  # equation 1
    _close(barlow_twins.barlow_twins_loss(za, zb, 0.005), slow)


def test_vicreg_is_lightlys(pair: tuple[Tensor, Tensor]) -> None:
    za, zb = pair
    spread = (vicreg.variance(za) + vicreg.variance(zb)) / 2
    ours = 25 * F.mse_loss(za, zb) + 25 * spread + vicreg.covariance(za) + vicreg.covariance(zb)
    _close(ours, lightly.loss.VICRegLoss()(za, zb))


def test_vicreg_terms_are_the_papers() -> None:
    z = 0.5 * torch.randn((6, 3), generator=torch.Generator().manual_seed(0)).double()
    mean = z.mean(0)
    hinge = covariance = 0.0
    for i in range(3):
        variance_i = sum(float(row[i] - mean[i]) ** 2 for row in z) / 5
        hinge += max(0.0, 1 - math.sqrt(variance_i + 1e-4)) / 3  # equation 1
        for j in range(3):
            if i != j:
                entry = sum(float((row[i] - mean[i]) * (row[j] - mean[j])) for row in z) / 5  # equation 3
                covariance += entry**2 / 3  # equation 4
    _close(vicreg.variance(z), hinge)
    _close(vicreg.covariance(z), covariance)


def test_moco_is_lightlys_memory_bank_loss(pair: tuple[Tensor, Tensor]) -> None:
    queries, keys = pair
    width = queries.shape[1]
    theirs = lightly.loss.NTXentLoss(temperature=0.2, memory_bank_size=(50, width))
    theirs(queries, keys)  # the first call fills the bank
    negatives = theirs.memory_bank.bank.clone()  # (K, D)
    assert negatives.shape == (50, width)
    _close(moco.info_nce(queries, keys, negatives, 0.2), theirs(queries, keys))


def test_moco_is_the_papers() -> None:
    rng = torch.Generator().manual_seed(0)
    queries, keys = torch.randn((3, 5), generator=rng), torch.randn((3, 5), generator=rng)
    negatives = F.normalize(torch.randn((7, 5), generator=rng), dim=1)
    slow = 0.0
    for q, k in zip(F.normalize(queries, dim=1), F.normalize(keys, dim=1), strict=True):
        own = math.exp(float(q @ k) / 0.07)
        others = sum(math.exp(float(q @ other) / 0.07) for other in negatives)
        slow -= math.log(own / (own + others)) / 3  # equation 1
    _close(moco.info_nce(queries, keys, negatives, 0.07), slow)
