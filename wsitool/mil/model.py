"""The classifier of slides: an encoder, a head over bags, and a card; one file holds them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsitool.backbones.build import empty_encoder
from wsitool.backbones.card import EncoderCard, check_positive
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.features import as_images
from wsitool.base.json_files import parse_json, typed
from wsitool.classify.encoder_reference import EncoderReference
from wsitool.classify.model import read_weights, with_weights, write_weights
from wsitool.errors import EncoderError
from wsitool.evaluation.calibration import check_logits
from wsitool.mil.head_registry import SLIDE_HEADS
from wsitool.slides.spec import CandidateRule

__all__ = [
    "SLIDE_CLASSIFIER_FILE",
    "Judged",
    "SlideCard",
    "SlideClassifier",
    "judge_bag",
    "load_slide_classifier",
    "save_slide_classifier",
]

SLIDE_CLASSIFIER_FILE = "slide-classifier.safetensors"
_KEY = "wsitool_slide_classifier"


@dataclass(frozen=True, kw_only=True)
class SlideCard:
    """What a classifier of slides is and has seen; sizes in pixels, `mpp` in um/px (None where not known).

    As `ClassifierCard`; `level` says what it was trained to judge, `sizes` make its head. `patch_size` and
    `image_size` are None where it was trained on features made elsewhere, of which `features_digest` is kept
    where the files say it.
    """

    classes: tuple[str, ...]
    head: str
    level: str
    temperature: float
    groups: tuple[str, ...]
    encoder: EncoderCard
    image_size: int | None = None
    patch_size: int | None = None
    mpp: float | None = None
    candidates: CandidateRule | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    features_digest: str = ""

    def __post_init__(self) -> None:
        check_positive(
            image_size=self.image_size,
            patch_size=self.patch_size,
            mpp=self.mpp,
            temperature=self.temperature,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`; ValueError for anything else."""
        return typed(cls, parse_json(text))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a head says of a bag: logits (K,), attention (n,) that sums to 1, and `each` (n, K).

    The latter are the logits of bags that hold a single patch each.
    """

    logits: NDArray[np.float64]
    attention: NDArray[np.float64]
    each: NDArray[np.float64]


class SlideClassifier(nn.Module):
    """Uint8 patches to features, and features of a bag to what is said of it.

    `encoder` is None where the features were made elsewhere. Logits are uncalibrated (`card.temperature`).
    """

    def __init__(self, encoder: Encoder | None, head: nn.Module, card: SlideCard) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.card = card

    def features(self, patches: Tensor) -> Tensor:
        """Features (B, D) of uint8 patches (B, 3, P, P), brought to the card's `image_size`."""
        if self.encoder is None or self.card.image_size is None:
            raise EncoderError(
                f"The classifier was trained on features made elsewhere ({self.card.encoder.backbone}), and "
                "there is no encoder to make such of new patches: train one on stores with --encoder."
            )
        features: Tensor = self.encoder(as_images(patches, self.card.image_size))
        return features

    def judge(self, features: NDArray[np.float32]) -> Judged:
        """What the head says of one bag (n, D); EncoderError if a value is not finite."""
        return judge_bag(self.head, features)


@torch.no_grad()
def judge_bag(head: nn.Module, features: NDArray[np.float32], *, each: bool = True) -> Judged:
    """What `head` says of one bag (n, D), on the device it is on; without `each` that has no rows."""
    device = next((one.device for one in (*head.parameters(), *head.buffers())), torch.device("cpu"))
    bag = torch.from_numpy(features).to(device)
    logits, attention = head(bag)
    if not each:
        rows = bag.new_empty((0, len(logits)))
    elif (of_each := getattr(head, "each", None)) is not None:
        rows = of_each(bag)
    else:
        rows = torch.stack([head(bag[row : row + 1])[0] for row in range(len(bag))])
    judged = Judged(
        **{
            name: _numbers(value)
            for name, value in (("logits", logits), ("attention", attention), ("each", rows))
        }
    )
    check_logits(judged.logits)
    check_logits(judged.attention)
    return judged


def _numbers(value: Tensor) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = value.double().cpu().numpy()
    return numbers


def save_slide_classifier(
    classifier: SlideClassifier, path: Path, *, reference: EncoderReference | None = None
) -> None:
    """Write weights and card to one safetensors file, complete or not at all; EncoderError if not finite.

    With a `reference` without the encoder's weights, as `save_classifier`.
    """
    card = classifier.card.to_json()
    write_weights(classifier, card, path, key=_KEY, rate="--head-lr", reference=reference)


def load_slide_classifier(path: str | Path) -> SlideClassifier:
    """Load a classifier of slides from its file or run folder, on the CPU and in evaluation mode.

    EncoderError if there is none, if the file is not one, or if its weights are not finite or do not fit its
    card. It runs no pickle.
    """
    path = Path(path)
    file = path / SLIDE_CLASSIFIER_FILE if path.is_dir() else path
    card, tensors = read_weights(file, SlideCard.from_json, key=_KEY, what="a classifier of slides")
    encoder = None if card.image_size is None else empty_encoder(card.encoder)
    entry = SLIDE_HEADS.get(card.head)
    head: Any = SLIDE_HEADS.call(entry, entry.build, card.encoder.feature_dim, len(card.classes), card.sizes)
    return with_weights(SlideClassifier(encoder, head, card), tensors, file)
