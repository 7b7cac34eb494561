"""Features of stores made on the way: a file for each store, kept for the next run and the next head."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.backbones.encoder import Encoder
from wsitool.backbones.features import encode, encoder_digest
from wsitool.base.files import replace_file_in_parts
from wsitool.base.progress import Reporter
from wsitool.mil.bags import Bag, LabelledBags
from wsitool.stain.slides import with_stain
from wsitool.store.collection import Collection
from wsitool.store.options import Decode, decoder_mark
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
        collection = with_stain(Collection.of([store]), self.encoder.card.stain, self.reporter)
        stain = "" if collection.stain is None else ":".join(collection.stain.keys)
        key = f"{digest}:{store.content_hash}:{self.image_size}{decoder_mark(self.decode)}:{stain}"
        path = self.folder / f"features-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
        if not _is_made(path, (len(store), self.encoder.feature_dim)):
            features = encode(
                self.encoder,
                collection,
                image_size=self.image_size,
                batch_size=self.batch_size,
                device=self.device,
                decode=self.decode,
                reporter=self.reporter,
            )
            _write(path, features)
        return path


def _moved(bag: Bag, files: Mapping[Path, Path], stores: Mapping[Path, Reader]) -> Bag:
    parts = tuple(
        replace(part, path=files[part.path], whole=len(part.rows) == len(stores[part.path]))
        for part in bag.parts
    )
    return replace(bag, parts=parts)


def _is_made(path: Path, shape: tuple[int, int]) -> bool:
    """Whether an earlier run has finished this file; one that is damaged is made anew."""
    try:
        kept = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return bool(kept.shape == shape and kept.dtype == np.float32)


def _write(path: Path, features: NDArray[np.float32]) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(features))
    # The array as it lies in memory: a copy of a large slide's would take as much again.
    replace_file_in_parts(path, (header.getvalue(), features.data.cast("B")))
