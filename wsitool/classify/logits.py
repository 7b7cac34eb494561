"""What a classifier says of every patch of a collection, each patch seen once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsitool.backbones.device import choose_device
from wsitool.backbones.features import over_patches
from wsitool.backbones.precision import inference
from wsitool.base.progress import SILENT, Reporter
from wsitool.classify.model import Classifier
from wsitool.stain.target import check_stain
from wsitool.store.collection import Collection
from wsitool.store.options import Decode
from wsitool.training.ranks import in_shares

__all__ = ["predict_logits"]


def predict_logits(
    classifier: Classifier,
    collection: Collection,
    *,
    batch_size: int = 64,
    device: str = "auto",
    decode: Decode = "cpu",
    reporter: Reporter = SILENT,
) -> NDArray[np.float64]:
    """Logits (N, K) of every patch of `collection`, in its order.

    Uncalibrated. Moves `classifier` to the device and into evaluation mode; processes that train together
    compute a part each. CorruptStoreError for a patch that cannot be read, EncoderError for values that are
    not finite.
    """
    check_stain(classifier.encoder.card.stain, collection.stain)
    hardware = choose_device(device)

    def logits(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        if not len(rows):
            return np.zeros((0, len(classifier.card.classes)))
        part = collection if len(rows) == len(collection) else collection.subset(rows)
        with inference(hardware):
            return over_patches(
                classifier, classifier.logits, part, batch_size, hardware, reporter, "predict", decode=decode
            ).astype(np.float64)

    return in_shares(len(collection), logits)
