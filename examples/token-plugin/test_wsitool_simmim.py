"""SimMIM keeps wsitool's contract, and its loss is the mean error of hidden pixels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from wsitool_simmim import SimMIM, hidden_error

from wsitool.testing import parametrize_method_checks


@parametrize_method_checks(SimMIM)
def test_conformance(check: Callable[[], None]) -> None:
    check()


def test_loss_is_summed_by_hand() -> None:
    rng = torch.Generator().manual_seed(0)
    images, painted = torch.rand((2, 3, 6, 6), generator=rng), torch.rand((2, 2, 2, 27), generator=rng)
    hidden = torch.tensor([[[True, False], [False, False]], [[False, True], [True, True]]])
    expected = 0.0
    for image in range(2):
        places = hidden[image].nonzero().tolist()
        for y, x in places:
            truth = images[image, :, 3 * y : 3 * y + 3, 3 * x : 3 * x + 3].flatten()
            expected += float((painted[image, y, x] - truth).abs().mean()) / len(places) / 2
    assert float(hidden_error(painted, images, hidden)) == pytest.approx(expected, rel=1e-5)
