"""A classifier's stain norm, for slides that have no store to keep their stains beside."""

from __future__ import annotations

import numpy as np
import torch

from wsitool.base.progress import Reporter
from wsitool.classify.model import ClassifierCard
from wsitool.errors import UsageError
from wsitool.loading.stain import StainNormalizer
from wsitool.predict.options import PredictOptions
from wsitool.predict.stream import SlideStream
from wsitool.stain.slides import sample_of, stain_of_pixels, table_of
from wsitool.stain.target import stain_words

__all__ = ["check_stain_asked", "slide_normalizer"]


def check_stain_asked(card: ClassifierCard, options: PredictOptions) -> None:
    """UsageError for a --stain-norm that the classifier was not trained under."""
    norm = card.encoder.stain
    if options.stain_norm not in (None, "none" if norm is None else norm.method):
        raise UsageError(
            f"The classifier was trained under {stain_words(norm)}, and --stain-norm {options.stain_norm} "
            "was asked for: leave it out, or take a classifier that was trained with it."
        )


def slide_normalizer(
    card: ClassifierCard,
    stream: SlideStream,
    device: torch.device,
    name: str,
    options: PredictOptions,
    reporter: Reporter,
) -> StainNormalizer | None:
    """What brings the slide's patches to the stain of training, fitted on a sample of them."""
    norm = card.encoder.stain
    if norm is None:
        return None
    sample = stream.sampled(sample_of(len(stream))).batches(len(stream), threads=options.threads)
    patches = [batch.patches for batch in sample]
    fit = stain_of_pixels(np.concatenate(patches))[norm.method] if patches else "no patch can be read"
    if isinstance(fit, str):
        reporter.warn(f"Left as they are, not normalised by stain: {name} ({fit}).")
        return None
    return StainNormalizer(table_of(norm, [fit]), device)
