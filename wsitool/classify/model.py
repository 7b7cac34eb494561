"""The classifier: an encoder, a head, and a card that says what it may be used on; one file holds them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, TypeVar

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from wsitool.backbones.build import empty_encoder
from wsitool.backbones.card import EncoderCard, check_positive
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.features import as_images
from wsitool.backbones.files import check_finite, to_safetensors
from wsitool.base.files import replace_file
from wsitool.base.json_files import parse_json, typed
from wsitool.classify.encoder_reference import REFERENCE_KEY, EncoderReference
from wsitool.classify.feature_files import FEATURES_PREFIX
from wsitool.classify.head_contract import BuildHead
from wsitool.classify.head_registry import HEADS
from wsitool.errors import EncoderError
from wsitool.slides.spec import CandidateRule

__all__ = [
    "CLASSIFIER_FILE",
    "Classifier",
    "ClassifierCard",
    "load_classifier",
    "read_weights",
    "save_classifier",
    "with_weights",
    "write_weights",
]

C = TypeVar("C")
N = TypeVar("N", bound=nn.Module)

CLASSIFIER_FILE = "classifier.safetensors"
_KEY = "wsitool_classifier"


@dataclass(frozen=True, kw_only=True)
class ClassifierCard:
    """What a classifier is and has seen; sizes in pixels, `mpp` in um/px (None where not known).

    Patches of `patch_size` are resized to `image_size`. `groups` are the patients of the labelled patches it
    was trained and validated on; `temperature` divides the logits for calibrated probabilities;
    `lora_rank` is that of the updates merged into the encoder's weights, where those were trained;
    `candidates` is how the positions of its patches were chosen, where that is one rule. ValueError for a
    number that cannot be.
    """

    classes: tuple[str, ...]
    head: str
    image_size: int
    patch_size: int
    mpp: float | None
    temperature: float
    groups: tuple[str, ...]
    encoder: EncoderCard
    neighbours: int | None = None
    bank: int | None = None
    lora_rank: int | None = None
    candidates: CandidateRule | None = None

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {self.head!r}")
        if self.temperature is None:
            raise ValueError("temperature must be a number above 0, got None")
        check_positive(
            image_size=self.image_size,
            patch_size=self.patch_size,
            mpp=self.mpp,
            temperature=self.temperature,
            neighbours=self.neighbours,
            bank=self.bank,
            lora_rank=self.lora_rank,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`; ValueError for anything else."""
        return typed(cls, parse_json(text))


class Classifier(nn.Module):
    """Float images (B, 3, S, S) in [0, 1] to logits (B, K).

    `card` says which classes, size and resolution they are of; logits are uncalibrated (`card.temperature`).

    >>> import torch
    >>> classifier = wsitool.load_classifier("run")
    >>> with torch.inference_mode():
    ...     classifier(torch.rand(2, 3, 16, 16)).shape
    torch.Size([2, 2])
    """

    def __init__(self, encoder: Encoder, head: nn.Module, card: ClassifierCard) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.card = card

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(images))
        return logits

    def logits(self, patches: Tensor) -> Tensor:
        """Logits (B, K) of uint8 patches (B, 3, P, P), brought to the card's `image_size`."""
        return self.of_features(self.features(patches))

    def features(self, patches: Tensor) -> Tensor:
        """Features (B, D) of uint8 patches (B, 3, P, P), brought to the card's `image_size`."""
        features: Tensor = self.encoder(as_images(patches, self.card.image_size))
        return features

    def of_features(self, features: Tensor) -> Tensor:
        """Logits (B, K) of the encoder's features (B, D)."""
        logits: Tensor = self.head(features)
        return logits


def save_classifier(classifier: Classifier, path: Path, *, reference: EncoderReference | None = None) -> None:
    """Write weights and card to one safetensors file, complete or not at all; EncoderError if not finite.

    With a `reference` the encoder's weights are left out, and read from its own file again.
    """
    write_weights(classifier, classifier.card.to_json(), path, key=_KEY, rate="--lr", reference=reference)


def load_classifier(path: str | Path) -> Classifier:
    """Load a classifier from its file or run folder, ready for inference.

    EncoderError if there is none, if the file is not one, or if its weights are not finite or do not fit its
    card. It runs no pickle; the classifier is on the CPU and in evaluation mode.

    >>> card = wsitool.load_classifier("run").card
    >>> card.classes, card.patch_size, card.mpp
    (('adh', 'benign'), 16, 0.5)
    """
    path = Path(path)
    file = path / CLASSIFIER_FILE if path.is_dir() else path
    if not file.is_file():
        raise EncoderError(
            f"There is no classifier '{file}': pass a folder that 'wsitool classify' has written."
        )
    card, tensors = read_weights(file, ClassifierCard.from_json, key=_KEY, what="a classifier of wsitool")
    if card.encoder.backbone.startswith(FEATURES_PREFIX):
        raise EncoderError(
            f"{file} was trained on features made elsewhere ({card.encoder.chain}), and there is no encoder "
            "to make such of new patches: train one with --encoder."
        )
    return with_weights(Classifier(empty_encoder(card.encoder), _head(card), card), tensors, file)


def write_weights(
    network: nn.Module,
    card: str,
    path: Path,
    *,
    key: str,
    rate: str,
    reference: EncoderReference | None = None,
) -> None:
    """Write a network and its `card`, under `key`, as `save_classifier` does; `rate` is what to lower."""
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in network.state_dict().items()
        if reference is None or not reference.left_out(name)
    }
    check_finite(tensors, what=f"'{path}' was not written", advice=f"Train again, with a lower {rate}")
    refers = {} if reference is None else {REFERENCE_KEY: reference.to_json()}
    replace_file(path, to_safetensors(tensors, {"format": "pt", key: card, **refers}))


def read_weights(
    file: Path, parse: Callable[[str], C], *, key: str, what: str
) -> tuple[C, dict[str, Tensor]]:
    """Card and weights that `write_weights` wrote; EncoderError for anything else, and weights not finite."""
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
        if key not in metadata:
            raise EncoderError(f"{file} is not {what}: pass the run folder of 'wsitool classify'.")
        card, tensors = parse(metadata[key]), safetensors.torch.load_file(file)
        refers = metadata.get(REFERENCE_KEY)
        reference = None if refers is None else EncoderReference.from_json(refers)
    except (OSError, SafetensorError) as error:
        raise EncoderError(f"{file} cannot be read as a classifier ({error}).") from None
    except (ValueError, TypeError, KeyError) as error:
        raise EncoderError(
            f"The card of {file} is damaged, or of a newer wsitool ({error}): upgrade wsitool, or train "
            "again."
        ) from None
    if reference is not None:
        tensors |= reference.tensors(file)
    # Before anything of it is used: a single NaN weight would make every probability NaN.
    check_finite(tensors, what=f"{file} is not used", advice="Train the classifier again")
    return card, tensors


def with_weights(network: N, tensors: Mapping[str, Tensor], file: Path) -> N:
    """The network with these weights, for inference; EncoderError where they are not its own."""
    try:
        # Strict: head and encoder, buffers too.
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise EncoderError(
            f"{file} does not fit its own card: {str(error).splitlines()[-1].strip()}"
        ) from None
    return network.eval()


def _head(card: ClassifierCard) -> nn.Module:
    kind = HEADS[card.head]
    build: BuildHead = kind.function(kind.build)
    sizes = {"neighbours": card.neighbours, "bank": card.bank}
    return build(card.encoder.feature_dim, len(card.classes), sizes)
