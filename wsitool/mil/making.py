"""Features of stores made on the way: a file for each store, kept for the next run and the next head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.backbones.encoder import Encoder
from wsitool.backbones.feature_cache import FeatureCache
from wsitool.backbones.features import encode, encoder_digest, features_mark
from wsitool.base.progress import Reporter
from wsitool.mil.bags import Bag, LabelledBags
from wsitool.stain.slides import with_stain
from wsitool.store.collection import Collection
from wsitool.store.options import Decode
from wsitool.store.reader import Reader

__all__ = ["FeatureMaker"]


@dataclass(frozen=True, kw_only=True)
class FeatureMaker:
    """Makes features of stores by `encoder`, patches resized to `image_size`, into files in `folder`."""

    encoder: Encoder
    image_size: int
    folder: Path
    device: str
    decode: Decode
    batch_size: int
    reporter: Reporter

    def made(self, bags: LabelledBags, collection: Collection) -> LabelledBags:
        """The same bags, with the rows of feature files in place of those of stores.

        Only stores that a bag is of are gone through, and of these all patches, one store after another.
        """
        stores = {Path(store.path): store for store in collection.stores}
        wanted = list(dict.fromkeys(part.path for bag in bags.bags for part in bag.parts))
        digest = encoder_digest(self.encoder)
        files: dict[Path, Path] = {}
        with self.reporter.task("features", total=len(wanted), unit="stores") as task:
            for path in wanted:
                files[path] = self._file(stores[path], digest)
                task.advance(note=path.stem)
        return replace(bags, bags=tuple(_moved(bag, files, stores) for bag in bags.bags))

    def _file(self, store: Reader, digest: str) -> Path:
        def compute(patches: Collection) -> NDArray[np.float32]:
            return encode(
                self.encoder,
                patches,
                image_size=self.image_size,
                batch_size=self.batch_size,
                device=self.device,
                decode=self.decode,
                reporter=self.reporter,
            )

        made_by = features_mark(digest, self.image_size, "32", self.decode)
        cache = FeatureCache(folder=self.folder, made_by=made_by, width=self.encoder.feature_dim)
        collection = with_stain(Collection.of([store]), self.encoder.card.stain, self.reporter)
        return cache.file(collection, compute)


def _moved(bag: Bag, files: Mapping[Path, Path], stores: Mapping[Path, Reader]) -> Bag:
    parts = tuple(
        replace(part, path=files[part.path], whole=len(part.rows) == len(stores[part.path]))
        for part in bag.parts
    )
    return replace(bag, parts=parts)
