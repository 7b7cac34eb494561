"""The head keeps wsitool's contract, and its logits are the maxima."""

from __future__ import annotations

import numpy as np
import torch
from wsitool_max import HEAD, MaxPooling

from wsitool.testing import check_head


def test_conformance() -> None:
    assert [f"{each.name}: {each.message}" for each in check_head(HEAD) if not each.passed] == []


def test_the_surest_patch_decides() -> None:
    head, bag = MaxPooling(3, 2), np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    weight, bias = (value.detach().numpy() for value in (head.classify.weight, head.classify.bias))
    scores = bag @ weight.T + bias
    logits, attention = (value.detach().numpy() for value in head(torch.from_numpy(bag)))
    assert np.allclose(logits, scores.max(axis=0), atol=1e-6)
    assert attention.argmax() == scores[:, scores.max(axis=0).argmax()].argmax() and attention.sum() == 1
