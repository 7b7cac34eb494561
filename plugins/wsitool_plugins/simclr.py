"""SimCLR: two views of a patch attract each other, all other views of the batch repel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wsitool.api import (
    Method,
    Params,
    Step,
    all_gather,
    color_jitter,
    gaussian_blur,
    hed_jitter,
    hparam,
    in_pieces,
    random_d4,
    random_grayscale,
    random_hflip,
    random_resized_crop,
    rank,
    to_float,
)

__all__ = ["SimCLR", "SimCLRParams", "nt_xent"]


@dataclass(frozen=True, kw_only=True)
class SimCLRParams(Params):
    """Temperature, projection head and augmentation of SimCLR."""

    presets = {"histology": {"d4": True, "hed": 0.05, "min_scale": 0.2}}

    temperature: float = hparam(0.5, "temperature of the NT-Xent loss", gt=0)
    hidden_dim: int | None = hparam(None, "width of the projection's hidden layer (as the features)", ge=1)
    projection_dim: int = hparam(128, "width of the projection", ge=2)
    strength: float = hparam(1.0, "strength s of the colour jitter (.8s, .8s, .8s, .2s)", ge=0, le=1)
    min_scale: float = hparam(0.08, "smallest share of the patch a crop keeps", gt=0, le=1)
    blur_p: float = hparam(0.5, "share of images that are blurred", ge=0, le=1)
    d4: bool = hparam(False, "flip and turn by all eight symmetries, not left-right only")
    hed: float = hparam(0.0, "strength of the stain (HED) jitter", ge=0, le=0.5)


class SimCLR(Method[SimCLRParams]):
    """Chen et al. 2020, A simple framework for contrastive learning, arXiv:2002.05709.

    Both views go through the encoder as one batch; the projection is two linear layers with batch norm.
    """

    params_type = SimCLRParams
    uses_batch_negatives = True

    def __init__(self, backbone: nn.Module, feature_dim: int, params: SimCLRParams) -> None:
        super().__init__(backbone, feature_dim, params)
        hidden = params.hidden_dim or feature_dim
        self.projection = nn.Sequential(
            nn.Linear(feature_dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, params.projection_dim, bias=False),
            nn.BatchNorm1d(params.projection_dim),
        )

    def views(self, patches: Tensor, rng: Generator) -> dict[str, Tensor]:
        a, b = (in_pieces(patches, lambda part: self._augment(part, rng)) for _ in range(2))
        return {"a": a, "b": b}

    def _augment(self, patches: Tensor, rng: Generator) -> Tensor:
        p, s = self.params, self.params.strength
        images = random_resized_crop(patches, rng, size=patches.shape[-1], scale=(p.min_scale, 1.0))
        images = random_d4(images, rng) if p.d4 else random_hflip(images, rng)
        if p.hed:
            images = hed_jitter(images, rng, sigma=p.hed)
        images = color_jitter(
            images, rng, brightness=0.8 * s, contrast=0.8 * s, saturation=0.8 * s, hue=0.2 * s, p=0.8
        )
        images = random_grayscale(images, rng, p=0.2)
        return to_float(gaussian_blur(images, rng, sigma=(0.1, 2.0), p=p.blur_p))

    def loss(self, views: dict[str, Tensor]) -> Step:
        images = torch.cat([views["a"], views["b"]])  # (2n, 3, P, P)
        za, zb = self.projection(self.backbone(images)).chunk(2)  # (n, D) each
        scores, positive = _scores(za, zb, self.params.temperature)
        top1 = (scores.argmax(dim=1) == positive).float().mean()
        chance = math.log(scores.shape[1] - 1)  # every other view of the batch as likely
        metrics = {"top1": top1, "temperature": torch.tensor(self.params.temperature)}
        return Step(
            loss=F.cross_entropy(scores, positive), metrics=metrics | {"chance_loss": torch.tensor(chance)}
        )


def nt_xent(za: Tensor, zb: Tensor, temperature: float) -> Tensor:
    """NT-Xent of projections (n, D) of two views: mean over 2n anchors of -log softmax at the positive.

    Cosine similarity over `temperature`; float32 at least. Across ranks, local anchors meet the candidates of
    all ranks, and the mean of the ranks' losses is the loss of the whole batch.
    """
    return F.cross_entropy(*_scores(za, zb, temperature))


def _scores(za: Tensor, zb: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Scores (2n, 2N) of local anchors against all candidates, and each anchor's positive (2n,)."""
    with torch.autocast(za.device.type, enabled=False):  # half precision would round the log-sum-exp away
        za, zb = (F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1) for z in (za, zb))
        everyone = torch.cat([all_gather(za), all_gather(zb)])  # (2N, D)
        scores = torch.cat([za, zb]) @ everyone.T / temperature
    n, total = len(za), len(everyone) // 2
    row = torch.arange(2 * n, device=za.device)
    itself = rank() * n + row % n + row // n * total
    scores = scores.scatter(1, itself[:, None], float("-inf"))
    return scores, (itself + total) % (2 * total)
