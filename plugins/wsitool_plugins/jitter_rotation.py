"""RotNet on colour-jittered patches: stain and scanner colour give the turn away no longer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import Method, Params, Step, color_jitter, hed_jitter, hparam

__all__ = ["JitterRotation", "JitterRotationParams"]


@dataclass(frozen=True, kw_only=True)
class JitterRotationParams(Params):
    """How strongly the colours of each rotated patch are changed."""

    presets = {"histology": {"hed": 0.05}}

    jitter: float = hparam(0.5, "strength s of the colour jitter (.8s, .8s, .8s, .2s)", ge=0, le=1)
    jitter_p: float = hparam(0.8, "share of images that are jittered", ge=0, le=1)
    hed: float = hparam(0.0, "strength of the stain (HED) jitter", ge=0, le=0.5)


class JitterRotation(Method[JitterRotationParams]):
    """Gidaris et al. 2018 (arXiv:1803.07728), with colour jitter on the rotated images as in Kim & Cho.

    Class k is k quarter turns counter-clockwise; colours change, the place of no pixel but by the turn.
    """

    params_type = JitterRotationParams
    images_per_patch = 4
    shortcut_metric = "rotation_accuracy"

    def __init__(self, backbone: nn.Module, feature_dim: int, params: JitterRotationParams) -> None:
        super().__init__(backbone, feature_dim, params)
        self.classifier = nn.Linear(feature_dim, 4)

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        # rot90 moves pixels; no interpolation whose traces would give the turn away.
        images = torch.cat([torch.rot90(patches, turns, (-2, -1)) for turns in range(4)])  # (4B, 3, P, P)
        turns = torch.arange(4, device=patches.device).repeat_interleave(len(patches))  # (4B,)
        p = self.params
        if p.hed:
            images = hed_jitter(images, rng, sigma=p.hed)
        s = p.jitter
        # After the turns, so that each of the four images has colours of its own.
        images = color_jitter(
            images, rng, brightness=0.8 * s, contrast=0.8 * s, saturation=0.8 * s, hue=0.2 * s, p=p.jitter_p
        )
        return {"images": images, "turns": turns}

    def loss(self, views: dict[str, Tensor]) -> Step:
        scores = self.classifier(self.backbone(views["images"])).float()  # (4B, 4)
        accuracy = (scores.argmax(dim=1) == views["turns"]).float().mean()
        loss = F.cross_entropy(scores, views["turns"])
        return Step(loss=loss, metrics={"rotation_accuracy": accuracy}, chance_loss=math.log(4))
