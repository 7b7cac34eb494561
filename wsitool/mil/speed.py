"""How long fitting a head of slides takes here, by fitting one to a few bags of noise."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.mil.bags import Bag, BagReader, Part, SlideBags
from wsitool.mil.head_registry import SLIDE_HEADS
from wsitool.mil.options import SlideSettings

__all__ = ["seconds_a_label"]

_BAGS, _EPOCHS, _MOST_PATCHES = 6, 2, 500


def seconds_a_label(settings: SlideSettings, *, feature_dim: int, patches: int, classes: int) -> float:
    """Seconds for each label of a fit to bags of so many `patches`; larger ones as if time grew with them."""
    fitted = max(1, min(patches, _MOST_PATCHES))
    count = _BAGS * classes
    few = replace(settings, epochs=min(settings.epochs, _EPOCHS))
    held_out = np.arange(count) < count * few.held_out_of(count)
    noise = SlideBags(
        labels=np.arange(count) % classes,
        groups=np.arange(count),
        classes=classes,
        feature_dim=feature_dim,
        train=np.flatnonzero(~held_out),
        held_out=np.flatnonzero(held_out),
        bags=tuple(_bag(number, fitted) for number in range(count)),
        reader=_Noise(feature_dim),
    )
    entry = SLIDE_HEADS.get(few.head)
    began = time.perf_counter()
    SLIDE_HEADS.call(entry, entry.fit, noise, few, seed=0)
    seconds = (time.perf_counter() - began) / count
    if entry.chooses != "epoch":
        return seconds
    return seconds * settings.epochs / few.epochs * patches / fitted


def _bag(number: int, rows: int) -> Bag:
    part = Part(path=Path(str(number)), rows=np.arange(rows), whole=True, content=str(number))
    return Bag(name=str(number), group=str(number), parts=(part,))


class _Noise(BagReader):
    """Draws what would be read."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self._feature_dim = feature_dim

    def read(self, bag: Bag) -> NDArray[np.float32]:
        rng = np.random.default_rng(int(bag.name))
        return rng.normal(size=(len(bag), self._feature_dim)).astype(np.float32)
