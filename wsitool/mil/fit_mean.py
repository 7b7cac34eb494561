"""Mean pooling and logistic regression: the linear head of patches, on the mean of each bag."""

from __future__ import annotations

import numpy as np
import torch

from wsitool.classify.built_in_heads import fit_linear_head
from wsitool.classify.head_contract import HeadData
from wsitool.classify.settings import Settings
from wsitool.mil.bags import SlideBags
from wsitool.mil.head_contract import FittedSlideHead
from wsitool.mil.heads import MeanPooling
from wsitool.mil.options import SlideSettings

__all__ = ["fit_mean"]


def fit_mean(bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
    """`fit_linear_head` on the means (M, D) of bags: its penalty is given, or chosen inside the labels."""
    means = np.zeros((len(bags), bags.feature_dim), np.float32)
    for row in (*bags.train.tolist(), *bags.held_out.tolist()):
        means[row] = bags.mean(row)
    data = HeadData(
        features=means,
        labels=bags.labels,
        groups=bags.groups,
        classes=bags.classes,
        train=bags.train,
        held_out=bags.held_out,
    )
    linear = Settings(head="linear", c=settings.c, balance=settings.balance, validation=settings.validation)
    fitted = fit_linear_head(data, linear, seed=seed)
    head = MeanPooling(bags.feature_dim, bags.classes)
    with torch.no_grad():
        head.classify.load_state_dict(fitted.head.state_dict())
    search = fitted.search
    if search is None:
        return FittedSlideHead(head=head, choices={"c": fitted.c})
    return FittedSlideHead(head=head, unseen=search.logits, choices=search.to_dict(), warning=search.warning)
