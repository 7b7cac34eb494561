"""The features of one store after another, each in its own files: here, or in the worker of a cluster."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.backbones.build import build_encoder
from wsitool.backbones.device import choose_device
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.features import encode, encoder_digest, features_digest
from wsitool.backbones.memory import InferenceBatch, encoding_batch
from wsitool.backbones.precision import effective_precision
from wsitool.base.cluster import for_workers
from wsitool.base.files import replace_file_in_parts
from wsitool.base.lock import locked
from wsitool.base.machine import explain_memory
from wsitool.base.paths import shown
from wsitool.base.planned import ITEM_PATIENCE_SECONDS
from wsitool.base.progress import Reporter, Warnings
from wsitool.base.sentences import one_sentence, system_error
from wsitool.errors import EncoderError, StoreError, UsageError
from wsitool.loading.device_decode import effective_decode
from wsitool.predict.clam_bags import ClamBags
from wsitool.predict.options import EmbedOptions
from wsitool.stain.slides import with_stain
from wsitool.stain.target import choose_norm
from wsitool.store.attributes import coords_attributes, plain_text
from wsitool.store.classes import renumbered
from wsitool.store.collection import Collection
from wsitool.store.opening import open_store
from wsitool.store.options import Decode, decoder_mark
from wsitool.store.schema import PatchStore
from wsitool.store.stain_table import StainNorm

__all__ = ["StoreEmbedder", "common_of", "embedder", "remote_store", "task_of", "under_norm"]

Features = NDArray[np.float32]
_building = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class StoreEmbedder:
    """How every store of one call is embedded.

    `digest` is the encoder's, `folder` what the files say they lie in, `norm` how stores are normalised and
    `stains`, by content hash, how each is. In `cache` features are kept for others, and theirs are taken.
    """

    encoder: Encoder
    digest: str
    image_size: int
    batch_size: int
    room: InferenceBatch
    device: str
    precision: str
    decode: Decode
    classes: tuple[str, ...]
    overwrite: bool
    dtype: str
    folder: str
    stains: Mapping[str, str] = field(default_factory=dict)
    norm: StainNorm | None = None
    cache: Path | None = None
    bags: ClamBags | None = None

    def files(self, store: PatchStore, target: Path) -> tuple[Path, ...]:
        """The files of a store: `target`, or those of its bags; the last is written last."""
        return (target,) if self.bags is None else self.bags.files(store)

    def kept(self, store: PatchStore, target: Path) -> bool:
        """Whether the files are there and what would be written."""
        if self.bags is not None:
            return self.bags.kept(store, self._made_from(store))
        return target.exists() and self._finished(store, target)

    def check(self, store: PatchStore, target: Path) -> bool:
        """As `kept`, never where all is overwritten; UsageError where another file is in the way."""
        if self.overwrite:
            return False
        kept = self.kept(store, target)
        if self.bags is not None:
            other = self.bags.other(store, self._made_from(store))
        else:
            other = target if target.exists() and not kept else None
        if other is not None:
            raise UsageError(
                f"{other} exists already and was not made of these patches with this encoder: pass "
                "--overwrite to replace it."
            )
        return kept

    def make(self, patches: Collection, store: PatchStore, target: Path, reporter: Reporter) -> None:
        """Write the features of `patches`, those of `store`, unless another job has done it meanwhile.

        StoreError where another process is at it.
        """
        last = self.files(store, target)[-1]
        last.parent.mkdir(parents=True, exist_ok=True)
        with locked(last, what=f"'{last}'", wait_seconds=ITEM_PATIENCE_SECONDS):
            if not self.check(store, target):
                self._embed(patches, store, target, reporter)

    def _embed(self, patches: Collection, store: PatchStore, target: Path, reporter: Reporter) -> None:
        with explain_memory(lambda: self.room.advice(self.batch_size)):
            features = encode(
                self.encoder,
                patches,
                image_size=self.image_size,
                batch_size=self.batch_size,
                device=self.device,
                precision=self.precision,
                decode=self.decode,
                cache=self.cache,
                digest=self.digest,
                reporter=reporter,
            )
        stored = _as_stored(features, self.dtype)
        if self.bags is not None:
            self.bags.write(store, stored, lambda file, rows: self._describe(file, store, rows))
        else:
            self._write(target, store, stored)

    def _write(self, path: Path, store: PatchStore, features: NDArray[np.floating[Any]]) -> None:
        if path.exists() and not self.overwrite:
            raise StoreError(f"{path} exists already: pass --overwrite to replace it.")
        buffer = io.BytesIO()  # on a full disk the HDF5 library ends the process
        with h5py.File(buffer, "w") as file:
            coords = file.create_dataset("coords", data=store.coords)
            coords.attrs.update(coords_attributes(store.meta, self.folder))
            file.create_dataset("features", data=features)
            self._describe(file, store, np.arange(len(store)))
        replace_file_in_parts(path, (buffer.getbuffer(),))

    def _describe(self, file: h5py.File, store: PatchStore, rows: NDArray[np.int64]) -> None:
        """What the features of some rows were made of, and what else is known of these rows."""
        about = file["features"].attrs
        about["name"] = plain_text(store.meta.name)
        about["encoder"] = self.encoder.card.backbone
        about["lineage"] = self.encoder.card.chain
        about["content_hash"] = store.content_hash
        about["made_from"] = self._made_from(store)
        about["features_digest"] = features_digest(self.digest, self.image_size, self.norm)
        _write_columns(file, store, self.classes, rows)

    def _made_from(self, store: PatchStore) -> str:
        bits = ("" if self.precision == "32" else f":{self.precision}") + decoder_mark(self.decode)
        identity = f"{self.digest}:{self.image_size}:{store.content_hash}:{self.classes}{bits}"
        identity += self.stains.get(store.content_hash, "")
        # As it was before there was a choice.
        identity += "" if self.dtype == "float32" else f":{self.dtype}"
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    def _finished(self, store: PatchStore, target: Path) -> bool:
        """Whether an earlier run wrote that file of the same; of the features only the shape is looked at."""
        with suppress(OSError, KeyError, AttributeError, RuntimeError), h5py.File(target, "r") as file:
            data = file["features"]
            same = data.attrs.get("made_from") == self._made_from(store)
            return bool(same and data.shape == (len(store), self.encoder.feature_dim))
        return False


def embedder(
    encoder: Encoder,
    settings: EmbedOptions,
    *,
    patch_size: int,
    classes: tuple[str, ...],
    folder: str,
    reporter: Reporter,
) -> StoreEmbedder:
    """How stores of such patches and classes are embedded; UsageError for what this device cannot do.

    For a cluster no batch is tried here: its workers have other memory.
    """
    size = settings.image_size or encoder.card.image_size or patch_size
    device = choose_device(settings.device)
    precision = effective_precision(settings.precision, device.type)
    room = encoding_batch(encoder, image_size=size, patch_size=patch_size, device=device, precision=precision)
    return StoreEmbedder(
        encoder=encoder,
        digest=encoder_digest(encoder),
        image_size=size,
        batch_size=1 if settings.dask else room.chosen(settings.batch_size, reporter),
        room=room,
        device=settings.device,
        precision=precision,
        decode=effective_decode(settings.decode, device),
        classes=classes,
        overwrite=settings.overwrite,
        dtype=settings.dtype,
        folder=folder,
        cache=None if settings.cache is None else Path(settings.cache),
    )


def under_norm(run: StoreEmbedder, collection: Collection, bags: ClamBags | None) -> StoreEmbedder:
    """The same for the stores of `collection`, under its stain norm."""
    norm = None if collection.stain is None else collection.stain.norm
    keys = () if collection.stain is None else collection.stain.keys
    stains = {store.content_hash: f":{key}" for store, key in zip(collection.stores, keys, strict=False)}
    return replace(run, stains=stains, norm=norm, bags=bags)


def common_of(run: StoreEmbedder, start: str | Path, settings: EmbedOptions, patch_size: int) -> str:
    """What the tasks of a call have in common, as text; bits and decoder are those of this machine."""
    same = replace(
        settings,
        image_size=run.image_size,
        precision=run.precision,
        decode=run.decode,
        backbone=for_workers(settings.backbone),
        stain_target=for_workers(settings.stain_target),
        cache=for_workers(settings.cache),
        dask=None,
    )
    return json.dumps(
        {
            "start": for_workers(str(start)),
            "settings": same.to_dict(),
            "digest": run.digest,
            "patch_size": patch_size,
            "classes": run.classes,
            "folder": run.folder,
        }
    )


def task_of(common: str, run: StoreEmbedder, store: PatchStore, target: Path) -> str:
    """The embedding of one store as text, for `remote_store`."""
    names = None if run.bags is None else run.bags.names(store)
    paths = {"store": for_workers(str(store.path)), "target": str(target.absolute())}
    return json.dumps({"common": common, "bags": names, **paths})


def remote_store(task: str) -> dict[str, Any]:
    """Embed the store of a `task_of` in a worker: the problem, "" where there is none, and the warnings."""
    told, said = json.loads(task), Warnings()
    try:
        with _building:
            run, settings = _built(told["common"])
        with open_store(told["store"]) as store:
            norm = choose_norm(settings.stain_norm, settings.stain_target, run.encoder.card.stain)
            # The client has looked at the stains of all, and told of those that cannot be normalised.
            patches = with_stain(Collection.of([store]), norm, needed=False)
            target, names = Path(told["target"]), told["bags"]
            bags = None if names is None else ClamBags(target.parent, [store], names=names)
            run = under_norm(run, patches, bags)
            run.make(patches, store, target, said)
    except UsageError:
        raise  # the same for every store
    except Exception as error:  # noqa: BLE001  # whatever it is, it is one store's
        is_system = system_error(error) is not None
        return {"problem": one_sentence(error), "is_system": is_system, "warnings": said.heard}
    return {"problem": "", "is_system": False, "warnings": said.heard}


@lru_cache(maxsize=1)
def _built(common: str) -> tuple[StoreEmbedder, EmbedOptions]:
    """The encoder on its device, once a process; UsageError where it is not the client's."""
    told, said = json.loads(common), Warnings()
    settings = EmbedOptions.from_dict(told["settings"])
    encoder = build_encoder(settings, told["start"], reporter=said)
    size, classes, folder = told["patch_size"], tuple(told["classes"]), told["folder"]
    run = embedder(encoder, settings, patch_size=size, classes=classes, folder=folder, reporter=said)
    if run.digest != told["digest"]:
        raise UsageError(
            f"'{told['start']}' is another encoder on a worker of the cluster: have all machines see the "
            "same files."
        )
    return run, settings


def _as_stored(features: Features, dtype: str) -> NDArray[np.floating[Any]]:
    """The same as numbers of `dtype`; EncoderError where it cannot hold one."""
    with np.errstate(over="ignore"):
        stored = features.astype(dtype)
    if not np.isfinite(stored).all():
        raise EncoderError(
            f"Its features reach {np.abs(features).max():.3g}, more than {dtype} holds: use --dtype float32."
        )
    return stored


def _write_columns(
    file: h5py.File, store: PatchStore, classes: tuple[str, ...], rows: NDArray[np.int64]
) -> None:
    """What else is known of some rows; `label` counts in `classes`, the same in all files."""
    file["tissue"] = store.tissue[rows]
    if store.labels is not None:
        numbers = renumbered(store.labels[rows], store.meta.classes, classes)
        file.create_dataset("label", data=numbers).attrs["classes"] = list(classes)
    if store.sources is not None:
        texts = [shown(str(name)) for name in store.sources[rows]]
        file.create_dataset("source", data=texts, dtype=h5py.string_dtype())
