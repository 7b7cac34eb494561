"""The encoders that cells begin with: built, hashed and run once for all cells that leave them as is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.backbones.encoder import Encoder
from wsitool.backbones.features import encoder_digest
from wsitool.base.making import making
from wsitool.classify.feature_files import StandIn, features_of
from wsitool.store.collection import Collection

__all__ = ["CellEncoder", "shared_encoder"]

_KEPT = 2  # collections whose features are held: the training side and the test side


class CellEncoder:
    """An encoder before any training, and its features of whole collections.

    `key` is what decides the encoder: it is hashed once a process, which reads all its weights.
    """

    def __init__(self, key: str, encoder: Encoder) -> None:
        self.key, self.encoder = key, encoder
        self._features: list[tuple[Collection, int, NDArray[np.float32]]] = []

    def features(
        self, collection: Collection, *, image_size: int, cache: Path, **how: Any
    ) -> NDArray[np.float32]:
        """As `features_of`, which takes `how`; those of the latest two collections are held in memory.

        Held where another process makes or reads the same.
        """
        for known, size, rows in self._features:
            if known is collection and size == image_size:
                return rows
        if self.key not in _digests and not isinstance(self.encoder, StandIn):
            _digests[self.key] = encoder_digest(self.encoder)
        with self._alone(collection, cache):
            rows = features_of(
                self.encoder,
                collection,
                image_size=image_size,
                cache=cache,
                digest=_digests.get(self.key),
                **how,
            )
        self._features = [*self._features[1 - _KEPT :], (collection, image_size, rows)]
        return rows

    def _alone(self, collection: Collection, cache: Path) -> AbstractContextManager[None]:
        """Keeps others from making the same features at once."""
        if (digest := _digests.get(self.key)) is None:
            return nullcontext()
        # A name for the lock alone, as there may be a file for each store.
        name = f"features-of-{digest[:16]}-{collection.fingerprint[:16]}"
        return making(cache / name, what=f"the features of {self.encoder.name}")


_digests: dict[str, str] = {}
_latest: list[CellEncoder] = []


def shared_encoder(key: str, build: Callable[[], Encoder]) -> CellEncoder:
    """The encoder of that key for a cell that does not change it; `build` where it is not the latest one.

    Cells that share an encoder follow one another, so only one is held.
    """
    if not _latest or _latest[0].key != key:
        _latest.clear()  # before another is built, as one may fill the memory
        _latest.append(CellEncoder(key, build()))
    return _latest[0]
