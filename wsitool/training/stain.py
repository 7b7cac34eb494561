"""The stain norm of a pretraining run."""

from __future__ import annotations

from dataclasses import replace

from wsitool.backbones.encoder import Encoder
from wsitool.base.progress import Reporter
from wsitool.stain.slides import with_stain
from wsitool.stain.target import choose_norm
from wsitool.store.collection import Collection
from wsitool.training.config import PretrainConfig

__all__ = ["normalized"]


def normalized(
    collection: Collection, encoder: Encoder, config: PretrainConfig, reporter: Reporter
) -> Collection:
    """The patches under the run's stain norm, which the encoder's card states from here on."""
    # That of an encoder which is trained on may be another.
    norm = choose_norm(config.stain_norm, config.stain_target, encoder.card.stain, may_differ=True)
    encoder.card = replace(encoder.card, stain=norm)
    return with_stain(collection, norm, reporter)
