"""Heads on frozen features: logistic regression and nearest neighbours, each an `nn.Module` giving logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsitool.backbones.neighbours import neighbour_votes
from wsitool.evaluation.calibration import check_logits

__all__ = [
    "PENALTIES",
    "NeighbourHead",
    "fit_linear",
    "fit_neighbours",
    "head_logits",
    "linear_path",
    "prior_shift",
]

Floats = NDArray[np.float32]
# scikit-learn's C: the inverse of the penalty's strength.
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
# A feature that is constant but for rounding: divided by its spread it would drown the others.
_LEAST_SPREAD = 1e-6


class NeighbourHead(nn.Module):
    """Weighted vote of the k most similar training patches (cosine), as log-probabilities (B, K).

    One pseudo-count over all classes keeps a unanimous vote from claiming certainty.
    """

    bank: Tensor
    one_hot: Tensor

    def __init__(self, size: int, feature_dim: int, classes: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.register_buffer("bank", torch.zeros(size, feature_dim))
        self.register_buffer("one_hot", torch.zeros(size, classes))

    def forward(self, features: Tensor) -> Tensor:
        """Log-probabilities (B, K) of features (B, D)."""
        similarity = nn.functional.normalize(features, dim=1) @ self.bank.T  # (B, size)
        votes = neighbour_votes(similarity, self.one_hot, self.neighbours)
        # 1 / K to each class: twenty votes of full weight give at most 1 - (1 - 1 / K) / 21.
        votes = votes + 1 / votes.shape[1]
        log_probabilities: Tensor = (votes / votes.sum(1, keepdim=True)).log()
        return log_probabilities


def fit_neighbours(
    features: Floats, labels: NDArray[np.integer], classes: int, *, neighbours: int
) -> NeighbourHead:
    """Keep features (N, D) and labels (N,) as the bank of a `NeighbourHead`."""
    head = NeighbourHead(len(features), features.shape[1], classes, neighbours)
    # Unit length, so that a product of matrices is the cosine.
    head.bank.copy_(nn.functional.normalize(torch.from_numpy(features), dim=1))
    head.one_hot.copy_(nn.functional.one_hot(torch.from_numpy(labels).long(), classes))
    return head


def fit_linear(
    features: Floats,
    labels: NDArray[np.integer],
    classes: int,
    *,
    penalties: Sequence[float],
    validation: tuple[Floats, NDArray[np.integer]] | None = None,
    weighted: bool = False,
) -> tuple[nn.Linear, float]:
    """Logistic regression as one linear layer on raw features, see `linear_path`, and the penalty C used.

    That is the one of `penalties` with the lowest loss on `validation` (ties: the smallest); with no
    validation `penalties` must hold one value.
    """
    best: tuple[float, float, nn.Linear] | None = None
    # Rising penalties and a strict comparison: the smallest of equals.
    for c, layer in linear_path(features, labels, classes, penalties=penalties, weighted=weighted):
        loss = 0.0 if validation is None else _loss(layer, *validation)
        if best is None or loss < best[0]:
            best = (loss, c, layer)
    if best is None:
        raise ValueError("At least one penalty is needed.")
    return best[2], best[1]


def linear_path(
    features: Floats,
    labels: NDArray[np.integer],
    classes: int,
    *,
    penalties: Sequence[float],
    weighted: bool = False,
) -> Iterator[tuple[float, nn.Linear]]:
    """Logistic regression (scikit-learn, L-BFGS) on standardised features (N, D) at each penalty C, rising.

    As linear layers on raw features; each fit starts from the one before, which is near. `weighted` gives
    each class the same weight in the fit, and then its share of `labels` back in the probabilities.
    """
    # Imported for this head only.
    from sklearn.linear_model import LogisticRegression

    # Sums in float64, everything as large as the features in float32: half the work, as accurate.
    mean = features.mean(0, dtype=np.float64).astype(np.float32)
    standard = features - mean
    spread = np.sqrt(np.square(standard).mean(0, dtype=np.float64)).astype(np.float32)
    spread[spread < _LEAST_SPREAD] = 1
    standard /= spread
    weight = "balanced" if weighted else None
    model = LogisticRegression(max_iter=1000, class_weight=weight, warm_start=True)
    for c in sorted(penalties):
        # Standardised features, so that one C means the same for any encoder.
        model.set_params(C=c).fit(standard, labels)
        layer = _layer(model.coef_, model.intercept_, mean, spread, classes)
        if weighted:
            with torch.no_grad():
                layer.bias.add_(prior_shift(labels, classes))
        yield c, layer


def prior_shift(labels: NDArray[np.integer], classes: int) -> Tensor:
    """What logits of equally weighted classes lack: (K,) log of K times each class's share of `labels`.

    Zero where classes are equally many. Added, it makes posteriors of what was trained on (arXiv:2007.07314).
    """
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    return torch.from_numpy(np.log(classes * counts / counts.sum())).float()


def _layer(
    coef: NDArray[np.float64],
    intercept: NDArray[np.float64],
    mean: Floats,
    spread: Floats,
    classes: int,
) -> nn.Linear:
    """Fold the standardisation into the weights: w.(x - mean)/spread + b = (w/spread).x + b'."""
    # (K, D), or (1, D) with two classes.
    weight = coef / spread
    bias = intercept - weight @ mean
    if classes == 2:  # one row, the log-odds of the second class
        weight, bias = np.concatenate([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
    layer = nn.Linear(weight.shape[1], classes)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


@torch.no_grad()
def head_logits(head: nn.Module, features: Floats) -> NDArray[np.float64]:
    """Logits (N, K) of features (N, D); EncoderError if one is not finite.

    Moves `head` to the CPU, where it stays. All rows at once, in float32.
    """
    # Moved to the CPU and left there: frozen heads are small, and scikit-learn's numbers come from it.
    logits: NDArray[np.float64] = head.cpu()(torch.from_numpy(features)).double().numpy()
    check_logits(logits)
    return logits


def _loss(layer: nn.Linear, features: Floats, labels: NDArray[np.integer]) -> float:
    logits = torch.from_numpy(head_logits(layer, features))
    return float(nn.functional.cross_entropy(logits, torch.from_numpy(labels).long()))
