"""A classifier for programs without torch: images in, features, logits and probabilities out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from wsitool.backbones.onnx_file import described, onnx_file
from wsitool.base.files import place_file
from wsitool.classify.model import Classifier, load_classifier
from wsitool.errors import UsageError

__all__ = ["export_classifier"]

_OUTPUTS = ("probabilities", "logits", "features")


class _Outputs(nn.Module):
    """Calibrated probabilities (B, K), logits (B, K) and features (B, D) of images (B, 3, H, W) in [0, 1]."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.encoder, self.head = classifier.encoder, classifier.head
        self._temperature = classifier.card.temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.encoder(images)
        logits = self.head(features)
        return torch.softmax(logits / self._temperature, 1), logits, features


def export_classifier(
    run: str | Path, out: str | Path, *, image_size: int | None = None, overwrite: bool = False
) -> str:
    """Write the classifier of a run folder or file as the ONNX file `out`.

    Its outputs are `probabilities`, `logits` and `features`, its metadata the classes in order, mean, std,
    um/px and size. Returns why it takes one size only, "" where it takes any. EncoderError where there is no
    classifier or onnxruntime computes something else, UsageError for another suffix, where onnx is missing or
    where something else is at `out` and is not to be replaced.
    """
    out = Path(out)
    if out.suffix != ".onnx":
        raise UsageError(f"A file for onnx ends in .onnx, got '{out.name}'.")
    classifier = load_classifier(run)
    card = classifier.card
    size = image_size or card.image_size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    about = {
        **described(card.encoder),
        "classes": list(card.classes),
        "head": card.head,
        "temperature": card.temperature,
        "mpp": card.mpp,
        "patch_size": card.patch_size,
    }
    network, step = _Outputs(classifier).eval(), classifier.encoder.patch_size
    written = onnx_file(network, images, _OUTPUTS, about, step=step)
    place_file(out, written.data, overwrite=overwrite)
    return written.fixed
