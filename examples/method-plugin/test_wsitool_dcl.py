"""DCL keeps wsitool's contract, and its loss is the paper's."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from wsitool_dcl import DCL, dcl_loss

from wsitool.testing import parametrize_method_checks


@parametrize_method_checks(DCL)
def test_conformance(check: Callable[[], None]) -> None:
    check()


@parametrize_method_checks(DCL, params={"sigma": 0.5})
def test_conformance_with_weights(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_loss_is_equation_6_summed_by_hand(sigma: float | None) -> None:
    rng = torch.Generator().manual_seed(0)
    za, zb = torch.randn((4, 6), generator=rng).double(), torch.randn((4, 6), generator=rng).double()
    views = [F.normalize(za, dim=1), F.normalize(zb, dim=1)]
    pairs = [float(views[0][i] @ views[1][i]) for i in range(4)]
    expected = 0.0
    for i in range(4):
        weight = 1.0
        if sigma is not None:
            density = [math.exp(pair / sigma) for pair in pairs]
            weight = 2 - density[i] / (sum(density) / 4)
        for anchor in (views[0][i], views[1][i]):
            others = sum(
                math.exp(float(anchor @ view[j]) / 0.1) for view in views for j in range(4) if j != i
            )
            expected += (-weight * pairs[i] / 0.1 + math.log(others)) / 8
    assert float(dcl_loss(za, zb, 0.1, sigma)) == pytest.approx(expected, rel=1e-9)
