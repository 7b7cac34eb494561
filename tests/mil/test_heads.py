"""The built-in heads against the paper's formula in numpy, scikit-learn, and the kit of packages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_bags import DIM, drawn
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsitool.errors import LabelError
from wsitool.mil import fit_attention as fitting
from wsitool.mil.bags import Bag, BagReader, Part, SlideBags
from wsitool.mil.fit_mean import fit_mean
from wsitool.mil.head_registry import SLIDE_HEADS
from wsitool.mil.heads import GatedAttention
from wsitool.mil.options import SlideSettings
from wsitool.testing import check_head

QUICK = SlideSettings(level="slide", head="attention", epochs=8, head_lr=0.02, attention_dim=5, device="cpu")


class InMemory(BagReader):
    def __init__(self, features: list[np.ndarray]) -> None:
        super().__init__()
        self.features = features

    def read(self, bag: Bag) -> np.ndarray:
        return self.features[int(bag.name)]


def _bag(name: str, size: int) -> Bag:
    part = Part(path=Path(name), rows=np.arange(size), whole=True, content=name)
    return Bag(name=name, group=name, parts=(part,))


def _bags(sizes: list[int], *, classes: int = 2, groups: int | None = None) -> SlideBags:
    labels = np.arange(len(sizes)) % classes
    features = [drawn(row, label, size) for row, (size, label) in enumerate(zip(sizes, labels, strict=True))]
    return SlideBags(
        labels=labels,
        groups=np.arange(len(sizes)) if groups is None else np.arange(len(sizes)) // classes % groups,
        classes=classes,
        feature_dim=DIM,
        train=np.arange(len(sizes)),
        held_out=np.zeros(0, np.int64),
        bags=[_bag(str(row), size) for row, size in enumerate(sizes)],
        reader=InMemory(features),
    )


def _paper(weights: dict[str, np.ndarray], bag: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and attention of arXiv:1802.04712, equations 7 and 9, patch by patch, in float64."""
    h = (bag.astype(np.float64) - weights["center"]) / weights["scale"]
    scores = []
    for patch in h:
        tanh = np.tanh(weights["value.weight"] @ patch + weights["value.bias"])
        gate = 1 / (1 + np.exp(-(weights["gate.weight"] @ patch + weights["gate.bias"])))
        scores.append(weights["score.weight"][0] @ (tanh * gate))
    powers = np.exp(np.array(scores) - max(scores))
    attention = powers / powers.sum()
    z = sum(a * patch for a, patch in zip(attention, h, strict=True))
    return weights["classify.weight"] @ z + weights["classify.bias"], attention


def _loss(weights: dict[str, np.ndarray], bags: SlideBags, rows: np.ndarray, of_class: np.ndarray) -> float:
    """Weighted mean over bags of the cross-entropy."""
    total = 0.0
    for row in rows:
        logits, _ = _paper(weights, bags.read(row))
        label = bags.labels[row]
        total -= of_class[label] * (logits[label] - np.log(np.exp(logits).sum()))
    return total / of_class[bags.labels[rows]].sum()


@pytest.mark.parametrize("together", [1, 1000])
def test_attention_loss_and_gradient_are_the_papers(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether bags of 1 to 40 patches go through the network one by one or at once."""
    monkeypatch.setattr(fitting, "_TOGETHER", together)
    bags = _bags([1, 3, 40, 7, 2, 9], classes=3)
    head = fitting.fresh_attention(bags, bags.train, QUICK, seed=1).double()
    with torch.no_grad():
        for one in head.parameters():
            one.add_(torch.randn(one.shape, generator=torch.Generator().manual_seed(2), dtype=one.dtype) / 3)
    weights = {name: value.numpy().copy() for name, value in head.state_dict().items()}
    for row in range(len(bags)):
        logits, attention = head(torch.from_numpy(bags.read(row)).double())
        for mine, paper in zip((logits, attention), _paper(weights, bags.read(row)), strict=True):
            assert mine.detach().numpy() == pytest.approx(paper, rel=1e-9, abs=1e-12)
    rows, of_class = np.array([4, 1, 2, 0]), np.array([0.5, 1.0, 2.5])
    loss = fitting.backward_of_bags(head, bags, rows, torch.from_numpy(of_class))
    assert loss == pytest.approx(_loss(weights, bags, rows, of_class), rel=1e-9)
    for name, parameter in head.named_parameters():
        place = (0,) * parameter.dim()
        sides = []
        for step in (1e-6, -1e-6):
            moved = {**weights, name: weights[name].copy()}
            moved[name][place] += step
            sides.append(_loss(moved, bags, rows, of_class))
        slope = (sides[0] - sides[1]) / 2e-6
        assert parameter.grad is not None
        assert parameter.grad[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-8), name


def test_large_bags_are_standardised_by_the_weights() -> None:
    """A bag of more patches than hidden values takes the other way, to the same end."""
    bags = _bags([30, 30])
    head = fitting.fresh_attention(bags, bags.train, QUICK, seed=0).double()
    bag = torch.from_numpy(bags.read(0)).double()
    wide = GatedAttention(DIM, 2, 5).double()
    wide.load_state_dict(head.state_dict())
    wide.center.zero_(), wide.scale.fill_(1)
    for mine, plain in zip(head(bag), wide((bag - head.center) / head.scale), strict=True):
        assert mine.detach().numpy() == pytest.approx(plain.detach().numpy(), rel=1e-9)


def test_mean_is_scikit_learns_on_mean_features() -> None:
    bags = _bags([4, 9, 6, 30, 5, 8, 7, 12])
    fitted = fit_mean(bags, SlideSettings(level="slide", c=0.3, balance="subset"), seed=0)
    means = np.stack([bags.read(row).mean(axis=0, dtype=np.float64) for row in range(len(bags))])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=1000)).fit(means, bags.labels)
    for row in range(len(bags)):
        with torch.no_grad():
            logits, attention = fitted.head(torch.from_numpy(bags.read(row)))
        expected = model.decision_function(means[row : row + 1])[0]
        assert float(logits[1] - logits[0]) == pytest.approx(expected, abs=2e-3)
        assert attention.tolist() == pytest.approx([1 / len(bags.read(row))] * len(bags.read(row)))


def test_epochs_are_chosen_inside_the_labels() -> None:
    """By folds of whole groups; what is calibrated on was not seen, and all labels are trained on."""
    bags = _bags([6] * 16, groups=8)
    entry = SLIDE_HEADS.get("attention")
    fitted = SLIDE_HEADS.call(entry, entry.fit, bags, QUICK, seed=0)
    assert fitted.choices["folds"] == 5 and 1 <= fitted.choices["epochs"] <= 8
    assert fitted.unseen.shape == (16, 2) and fitted.warning == ""
    alone = replace(QUICK, validation=0.0, epochs=fitted.choices["epochs"])
    plain = SLIDE_HEADS.call(entry, entry.fit, bags, alone, seed=0)
    for name, value in plain.head.state_dict().items():
        assert torch.equal(value, fitted.head.state_dict()[name])
    # Labels that say nothing of the patches are not learned by folds, however well they are by heart.
    with pytest.raises(LabelError, match="at least 2 labels of every class"):
        SLIDE_HEADS.call(entry, entry.fit, _bags([5, 5]), QUICK, seed=0)


@pytest.mark.parametrize("name", ["mean", "attention"])
def test_built_in_heads_pass_the_kit(name: str) -> None:
    assert [f"{each.name}: {each.message}" for each in check_head(name) if not each.passed] == []
