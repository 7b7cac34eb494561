"""The functions of the built-in heads, as `head_registry` names them and `head_contract` describes them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from wsitool.classify.head_contract import FittedHead, HeadData
from wsitool.classify.heads import PENALTIES, NeighbourHead, fit_linear, fit_neighbours
from wsitool.classify.penalty import search_penalty
from wsitool.classify.settings import Settings

__all__ = ["build_linear", "build_neighbours", "fit_linear_head", "fit_neighbour_head", "fresh_layer"]


def fresh_layer(feature_dim: int, classes: int, *, seed: int) -> nn.Linear:
    """A linear layer drawn from `seed`; a small start keeps the first steps from disturbing the encoder."""
    layer = nn.Linear(feature_dim, classes)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.normal_(0, 0.01, generator=rng)
        layer.bias.zero_()
    return layer


def build_linear(feature_dim: int, classes: int, sizes: Mapping[str, int | None]) -> nn.Linear:
    """A linear layer; its size follows from the features."""
    return nn.Linear(feature_dim, classes)


def fit_linear_head(data: HeadData, settings: Settings, *, seed: int) -> FittedHead:
    """Logistic regression; its penalty is given, chosen on what is held out, or by folds inside the rest."""
    train, held_out = data.train, data.held_out
    search = None
    if settings.c == "auto":
        search = search_penalty(
            data.features[train],
            data.labels[train],
            data.groups[train],
            data.classes,
            weighted=settings.balance == "weighted",
            split=settings.split,
            seed=seed,
        )
    penalty = search.c if search is not None else settings.c
    head, c = fit_linear(
        data.features[train],
        data.labels[train],
        data.classes,
        penalties=[penalty] if isinstance(penalty, int | float) else PENALTIES,
        validation=(data.features[held_out], data.labels[held_out]) if len(held_out) else None,
        weighted=settings.balance == "weighted",
    )
    return FittedHead(head=head, c=c, search=search)


def fit_neighbour_head(data: HeadData, settings: Settings, *, seed: int) -> FittedHead:
    """All training patches as a bank."""
    head = fit_neighbours(
        data.features[data.train], data.labels[data.train], data.classes, neighbours=settings.neighbours
    )
    return FittedHead(head=head, sizes={"neighbours": head.neighbours, "bank": len(head.bank)})


def build_neighbours(feature_dim: int, classes: int, sizes: Mapping[str, int | None]) -> NeighbourHead:
    """An empty bank of `sizes["bank"]` patches, of which `sizes["neighbours"]` vote."""
    return NeighbourHead(sizes["bank"] or 0, feature_dim, classes, sizes["neighbours"] or 1)
