"""Running a network over a whole collection: features or logits, row for row, each computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsitool.augment import resize, to_float
from wsitool.backbones.device import choose_device, place
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.feature_cache import FeatureCache
from wsitool.backbones.fetching import fetched
from wsitool.backbones.precision import effective_precision, inference
from wsitool.base.progress import SILENT, Reporter
from wsitool.errors import CorruptStoreError, EncoderError
from wsitool.loading import PatchLoader
from wsitool.stain.target import check_stain
from wsitool.store.collection import Collection
from wsitool.store.options import Decode, decoder_mark
from wsitool.store.stain_table import StainNorm

__all__ = [
    "as_images",
    "encode",
    "encoder_digest",
    "encoding",
    "features_digest",
    "features_mark",
    "over_patches",
]


def as_images(patches: Tensor, image_size: int) -> Tensor:
    """Uint8 patches (B, 3, P, P) as float images (B, 3, S, S) in [0, 1].

    Antialiased bilinear; on CPUs bytes are resized and then divided, elsewhere the other way round, which
    rounds once less.
    """
    if patches.device.type == "cpu":
        return to_float(resize(patches, image_size))  # several times faster on bytes than on floats
    return resize(to_float(patches), image_size)  # devices interpolate floats only


def encoding(encoder: Encoder, image_size: int) -> Callable[[Tensor], Tensor]:
    """Uint8 patches (B, 3, P, P) to features (B, D)."""

    def step(patches: Tensor) -> Tensor:
        features: Tensor = encoder(as_images(patches, image_size))
        return features

    return step


def encode(
    encoder: Encoder,
    collection: Collection,
    *,
    image_size: int,
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "32",
    decode: Decode = "cpu",
    cache: Path | None = None,
    digest: str | None = None,
    reporter: Reporter = SILENT,
) -> NDArray[np.float32]:
    """Features (N, D) of every patch of `collection`, in its order; EncoderError if one is not finite.

    Computed in the bits of `precision` (see `effective_precision`), float32 whatever that is, of patches that
    `decode` (see `effective_decode`) decodes. With a folder `cache` they are kept there (see `FeatureCache`);
    `digest` is the encoder's, where it is known.
    """
    check_stain(encoder.card.stain, collection.stain)
    hardware = choose_device(device)
    precision = effective_precision(precision, hardware.type)

    def compute(part: Collection) -> NDArray[np.float32]:
        with inference(hardware, precision):
            return over_patches(
                encoder, step, part, batch_size, hardware, reporter, "features", decode=decode
            )

    step = encoding(encoder, image_size)
    if cache is None:
        return compute(collection)
    made_by = features_mark(digest or encoder_digest(encoder), image_size, precision, decode)
    kept = FeatureCache(folder=cache, made_by=made_by, width=encoder.feature_dim)
    return kept.features(collection, compute, reporter)


def features_mark(digest: str, image_size: int, precision: str, decode: Decode) -> str:
    """What decides features beside the patches; `precision` is the effective one."""
    return f"{digest}:{image_size}" + ("" if precision == "32" else f":{precision}") + decoder_mark(decode)


def encoder_digest(encoder: Encoder) -> str:
    """SHA-256 over weights, how the network is built, pool and normalisation: what decides the features.

    Names of tensors count, the backbone's name too; lineage and versions do not. It copies all weights to the
    host, one at a time.
    """
    card = encoder.card
    # Only where they say something, so that what was computed before there were such options stays valid.
    built = f":{json.dumps(card.args, sort_keys=True)}:{card.pool}" if card.args or card.pool else ""
    digest = hashlib.sha256(f"{encoder.name}:{card.mean}:{card.std}{built}".encode())
    # Sorted, so that the order in which layers were registered does not count.
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        # As bytes, since numpy has no bfloat16.
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def features_digest(encoder: str, image_size: int, stain: StainNorm | None) -> str:
    """What features follow from besides the patches, in 32 hex digits; `encoder` is its `encoder_digest`."""
    norm = "" if stain is None else f":{stain.method}:{stain.target}"
    return hashlib.sha256(f"{encoder}:{image_size}{norm}".encode()).hexdigest()[:32]


def over_patches(
    module: nn.Module,
    step: Callable[[Tensor], Tensor],
    collection: Collection,
    batch_size: int,
    device: torch.device,
    reporter: Reporter,
    what: str,
    *,
    decode: Decode = "cpu",
) -> NDArray[np.float32]:
    """Rows (N, ...) float32 that `step` makes of all patches of `collection`, in its order.

    To be called within `inference`, which says how it computes. CorruptStoreError if a patch cannot be read.
    """
    place(module, device)
    module.eval()
    rows: NDArray[np.float32] | None = None
    seen = np.zeros(len(collection), np.bool_)
    batch_size = min(batch_size, max(1, len(collection)))  # a loader of larger batches wants two patches
    # Unshuffled: batches are rows that follow each other, which raw stores read in one go.
    loader = PatchLoader(collection, batch_size=batch_size, shuffle=False, device=device, decode=decode)
    with reporter.task(what, total=len(collection), unit="patches") as task:
        for features, index in fetched((step(batch.patches), batch.indices.numpy()) for batch in loader):
            _check_finite(features, index, collection)
            if rows is None:
                # Made when the width is known, from the first batch.
                rows = np.empty((len(collection), features.shape[1]), np.float32)
            rows[index] = features
            seen[index] = True
            task.advance(len(index))
    if rows is None or not seen.all():
        # A row that is missing would shift every label after it: better to stop.
        raise CorruptStoreError(
            f"{int((~seen).sum())} of {len(collection)} patches cannot be read: write their stores again."
        )
    return rows


def _check_finite(rows: NDArray[np.float32], index: NDArray[np.int64], collection: Collection) -> None:
    # (B,) rows with at least one value that is none.
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        first = int(index[bad[0]])
        store = collection.stores[collection.store_index[first]]
        raise EncoderError(
            f"The network's values for patch {collection.row[first]} of {store.path} are not finite (NaN or "
            "infinity), so nothing is made of them: take other weights, or train again with a lower --lr."
        )
