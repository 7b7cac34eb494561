"""Features of all patches that can be read, computed once and kept beside the database."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.backbones.build import build_encoder
from wsitool.backbones.features import encode, encoder_digest
from wsitool.base.files import check_writable
from wsitool.base.machine import first_batch_size
from wsitool.base.progress import Reporter
from wsitool.classify.checks import chosen_image_size
from wsitool.classify.feature_files import FeatureFiles
from wsitool.errors import CorruptStoreError
from wsitool.labelling.database import Database
from wsitool.labelling.options import LabelOptions
from wsitool.labelling.patches import Patches, unreadable
from wsitool.labelling.session import Learning

__all__ = ["features_of_patches"]


def features_of_patches(
    patches: Patches, database: Database, options: LabelOptions, reporter: Reporter
) -> Learning:
    """What the probe learns on, by the `encoder` or `features` of `options`.

    Patches that cannot be read have zeros, and are noted in the database.
    """
    collection = patches.collection
    if options.features is not None:
        rows = FeatureFiles.at(options.features).rows(collection)
        return Learning(features=rows, name=hashlib.sha256(rows.tobytes()).hexdigest()[:16])
    assert options.encoder is not None, "one of the two is asked for"
    encoder = build_encoder(options, options.encoder, reporter=reporter)
    size = chosen_image_size(options.image_size, encoder, collection.patch_size)
    cache = Path(f"{database.path}.features" if options.cache is None else options.cache)
    check_writable(cache)

    def computed(keep: NDArray[np.int64]) -> NDArray[np.float32]:
        part = collection if len(keep) == len(collection) else collection.subset(keep)
        return encode(
            encoder,
            part,
            image_size=size,
            batch_size=first_batch_size(options.batch_size),
            device=options.device,
            cache=cache,
            reporter=reporter,
        )

    keep = _readable(patches, database)
    try:
        rows = computed(keep)
    except CorruptStoreError:
        found = unreadable(collection)
        database.add_damaged({patches.place(patch): reason for patch, reason in found.items()})
        reporter.warn(f"{len(found)} patches cannot be read, and are left out.")
        keep = _readable(patches, database)
        rows = computed(keep)
    features = np.zeros((len(collection), rows.shape[1]), np.float32) if len(rows) < len(collection) else rows
    if features is not rows:
        features[keep] = rows
    return Learning(features=features, name=f"{encoder_digest(encoder)[:16]}:{size}")


def _readable(patches: Patches, database: Database) -> NDArray[np.int64]:
    numbers = {patches.number(*place) for place in database.damaged}
    return np.array([patch for patch in range(len(patches)) if patch not in numbers], np.int64)
