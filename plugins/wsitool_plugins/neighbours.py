"""Neighbours: SimCLR whose second view is of a patch beside the first one's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from wsitool.api import Crop, Meta, Method, Step, ViewParams, all_gather, crops, hparam
from wsitool_plugins.simclr import nt_xent

__all__ = ["Neighbours", "NeighboursParams"]


@dataclass(frozen=True, kw_only=True)
class NeighboursParams(ViewParams):
    """Temperature and projection, as SimCLR's."""

    presets = {"histology": {**ViewParams.presets["histology"], "temperature": 0.1}}

    temperature: float = hparam(0.5, "temperature of the NT-Xent loss", gt=0)
    projection_dim: int = hparam(128, "width of the projection", ge=2)


class Neighbours(Method[NeighboursParams]):
    """Gildenblat & Klaiman 2019, Self-supervised similarity learning for digital pathology, arXiv:1905.08139.

    What lies beside each other is alike: that paper's positives, in the loss of SimCLR (Chen et al. 2020,
    arXiv:2002.05709) in place of its pairwise one. A patch without a neighbour is paired with itself.
    """

    params_type = NeighboursParams
    uses_batch_negatives = True
    needs = frozenset({"pairs"})

    def __init__(self, backbone: nn.Module, feature_dim: int, params: NeighboursParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.projection = nn.Sequential(
            nn.Linear(feature_dim, feature_dim, bias=False),
            nn.BatchNorm1d(feature_dim),
            nn.ReLU(inplace=True),
            nn.Linear(feature_dim, params.projection_dim, bias=False),
            nn.BatchNorm1d(params.projection_dim),
        )

    def views(self, patches: Tensor, rng: Generator, meta: Meta) -> dict[str, Tensor]:  # type: ignore[override]
        assert meta.pairs is not None  # as they are needed
        p, scale = self.params, (self.params.min_scale, 1.0)
        second = Crop(scale=scale, blur_p=p.blur_p_second, solarize_p=p.solarize_p)
        (a,), (b,) = crops(patches, rng, [Crop(scale=scale)], p), crops(meta.pairs, rng, [second], p)
        return {"a": a, "b": b}

    def loss(self, views: dict[str, Tensor]) -> Step:
        images = torch.cat([views["a"], views["b"]])  # (2n, 3, P, P)
        za, zb = self.projection(self.backbone(images)).chunk(2)  # (n, D) each
        chance = math.log(2 * len(all_gather(za.detach())) - 1)
        return Step(loss=nt_xent(za, zb, self.params.temperature), chance_loss=chance)
