"""Features of whole stores, in the files that slide-level tools read, and a map of them."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
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
from wsitool.backbones.resolution import resolution_warnings
from wsitool.backbones.sizes import check_size
from wsitool.base.file_names import file_names
from wsitool.base.files import check_writable, replace_file_in_parts
from wsitool.base.interrupt import progress_on_stop, raise_if_stopping
from wsitool.base.lock import locked
from wsitool.base.machine import explain_memory
from wsitool.base.paths import AnyPath, shown
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.sentences import one_sentence, system_error
from wsitool.errors import EncoderError, StoreError, UsageError
from wsitool.evaluation.labels import check_table, read_label_table
from wsitool.loading.device_decode import effective_decode, say_decoding
from wsitool.predict.clam_bags import ClamBags
from wsitool.predict.options import EmbedOptions
from wsitool.predict.result import EmbedResult
from wsitool.report.scatter import save_scatter
from wsitool.stain.slides import with_stain
from wsitool.stain.target import choose_norm
from wsitool.store.attributes import coords_attributes, plain_text
from wsitool.store.collection import Collection, open_readable, renumbered
from wsitool.store.options import Decode, decoder_mark
from wsitool.store.schema import PatchStore
from wsitool.store.stain_table import StainNorm

__all__ = ["embed", "project"]

_MAP_POINTS = 5000
Features = NDArray[np.float32]


def embed(
    stores: AnyPath | Iterable[AnyPath],
    *,
    encoder: str | Path,
    out: str | Path,
    reporter: Reporter = SILENT,
    **options: Any,
) -> EmbedResult:
    """Write `out`/<slide>.h5 with `features` (N, F) and `coords` (N, 2) per store, and `out`/map.png.

    One store after another, of which one is held in memory. The layout is CLAM's and TRIDENT's, row for row
    that of the store. Beside them stand `tissue` (N,) and, where the store has them, `label` (N,) int16 with
    the collection's `classes`, and `source` (N,).
    `options` are the fields of `EmbedOptions`. Files of an earlier run that were made of the same patches
    with the same encoder are kept. Raises UsageError if choices do not fit, or other files are in the way. A
    store that cannot be opened or fails does not stop the others.
    """
    settings = EmbedOptions.from_dict(options, what="embed")
    collection, unopened = open_readable(stores)
    _check(collection, settings)
    folder = Path(out)
    names = [store.meta.name for store in collection.stores]
    targets = [folder / f"{name}.h5" for name in file_names(names)]
    bags = _bags(collection, settings, folder, reporter)
    if len(set(names)) < len(names):
        raise UsageError("Two stores are of a slide of the same name: embed them into folders of their own.")
    built = build_encoder(settings, encoder, reporter=reporter)
    norm = choose_norm(settings.stain_norm, settings.stain_target, built.card.stain)
    collection = with_stain(collection, norm, reporter)
    for warning in resolution_warnings(built.card, collection):
        reporter.warn(warning)
    run = replace(_run(built, collection, settings, reporter), bags=bags)
    kept = run.check(collection, targets)
    check_size(built, run.image_size, reporter)
    check_writable(folder)
    with locked(folder / "map.png", what=f"'{folder}'"):
        done, failed = _embed_each(run, collection, targets, kept, folder, reporter)
        if done:
            rest = collection.subset(np.flatnonzero(np.isin(collection.store_index, done)))
            _draw(folder / "map.png", run, targets, rest, settings)
            if bags is not None:
                bags.write_table(collection, done, reporter)
    files = [(targets[i],) if bags is None else bags.files(collection.stores[i]) for i in done]
    return EmbedResult(
        out=folder,
        files=tuple(path for own in files for path in own),
        map=folder / "map.png" if done else None,
        method=settings.projection,
        unit="stores" if bags is None else "bags",
        patches=sum(len(collection.stores[index]) for index in done),
        feature_dim=built.feature_dim,
        failed=(*unopened, *failed),
    )


def _run(encoder: Encoder, collection: Collection, settings: EmbedOptions, reporter: Reporter) -> _Run:
    size = settings.image_size or encoder.card.image_size or collection.patch_size
    device = choose_device(settings.device)
    precision = effective_precision(settings.precision, device.type)
    decode = effective_decode(settings.decode, device)
    say_decoding(decode, collection, reporter)
    patch_size = collection.patch_size
    room = encoding_batch(encoder, image_size=size, patch_size=patch_size, device=device, precision=precision)
    return _Run(
        encoder=encoder,
        image_size=size,
        batch_size=room.chosen(settings.batch_size, reporter),
        room=room,
        device=settings.device,
        precision=precision,
        decode=decode,
        classes=collection.classes,
        overwrite=settings.overwrite,
        stains=_stains(collection),
        norm=None if collection.stain is None else collection.stain.norm,
        dtype=settings.dtype,
    )


def _embed_each(
    run: _Run,
    collection: Collection,
    targets: Sequence[Path],
    kept: set[int],
    folder: Path,
    reporter: Reporter,
) -> tuple[list[int], list[tuple[str, str]]]:
    """The numbers of the stores whose files are there, and (store, reason) of those that failed."""
    done: list[int] = []
    failed: list[tuple[str, str]] = []
    again = "do all once more" if run.overwrite else "go on"
    with (
        progress_on_stop(lambda: f"{len(done)} of {len(targets)} stores done; run again to {again}"),
        reporter.task("embed", total=len(targets), unit="stores") as task,
    ):
        for index, store_rows in collection.rows_by_store():
            target = targets[index]
            try:
                if index not in kept:
                    run.embed_store(collection.subset(store_rows), collection.stores[index], target, reporter)
                done.append(index)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is one store's
                raise_if_stopping()
                failed.append((collection.stores[index].meta.name, one_sentence(error)))
                if system_error(error) is not None:
                    check_writable(folder)  # if it is full, the others would be computed for nothing
            task.advance(note=target.stem)
    return done, failed


@dataclass(frozen=True, kw_only=True)
class _Run:
    """How every store of one call is embedded."""

    encoder: Encoder
    image_size: int
    batch_size: int
    room: InferenceBatch
    device: str
    precision: str
    decode: Decode
    classes: tuple[str, ...]
    overwrite: bool
    stains: Mapping[str, str]  # by content hash, how the store is normalised
    dtype: str
    norm: StainNorm | None
    bags: ClamBags | None = None

    def check(self, collection: Collection, targets: Sequence[Path]) -> set[int]:
        """The numbers of the stores whose files are what would be written, and are kept.

        UsageError where a file is in the way that is not.
        """
        kept: set[int] = set()
        for index, (store, target) in enumerate(zip(collection.stores, targets, strict=True)):
            if self.overwrite:
                continue
            if self.bags is not None:
                made_from = self._made_from(store)
                is_kept, other = self.bags.kept(store, made_from), self.bags.other(store, made_from)
            else:
                is_kept = target.exists() and self._finished(store, target)
                other = target if target.exists() and not is_kept else None
            if other is not None:
                raise UsageError(
                    f"{other} exists already and was not made of these patches with this encoder: pass "
                    "--overwrite to replace it."
                )
            if is_kept:
                kept.add(index)
        return kept

    def embed_store(self, patches: Collection, store: PatchStore, target: Path, reporter: Reporter) -> None:
        """Write the features (N, F) of `patches`, which are those of `store`."""
        with explain_memory(lambda: self.room.advice(self.batch_size)):
            features = encode(
                self.encoder,
                patches,
                image_size=self.image_size,
                batch_size=self.batch_size,
                device=self.device,
                precision=self.precision,
                decode=self.decode,
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
            coords.attrs.update(coords_attributes(store.meta, path.parent))
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
        about["features_digest"] = self._features_digest
        _write_columns(file, store, self.classes, rows)

    @cached_property
    def _encoder_digest(self) -> str:
        return encoder_digest(self.encoder)

    @cached_property
    def _features_digest(self) -> str:
        return features_digest(self._encoder_digest, self.image_size, self.norm)

    def _made_from(self, store: PatchStore) -> str:
        bits = ("" if self.precision == "32" else f":{self.precision}") + decoder_mark(self.decode)
        identity = f"{self._encoder_digest}:{self.image_size}:{store.content_hash}:{self.classes}{bits}"
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


def _as_stored(features: Features, dtype: str) -> NDArray[np.floating[Any]]:
    """The same as numbers of `dtype`; EncoderError where it cannot hold one."""
    with np.errstate(over="ignore"):
        stored = features.astype(dtype)
    if not np.isfinite(stored).all():
        raise EncoderError(
            f"Its features reach {np.abs(features).max():.3g}, more than {dtype} holds: use --dtype float32."
        )
    return stored


def _stains(collection: Collection) -> dict[str, str]:
    """By content hash, what a norm does to each store; empty where there is none."""
    keys = () if collection.stain is None else collection.stain.keys
    return {store.content_hash: f":{key}" for store, key in zip(collection.stores, keys, strict=False)}


def _bags(
    collection: Collection, settings: EmbedOptions, folder: Path, reporter: Reporter
) -> ClamBags | None:
    """Where bags go, with the layout of CLAM."""
    if settings.layout != "clam":
        return None
    table = None
    if settings.labels is not None:
        table = read_label_table(settings.labels, reporter=reporter)
        check_table(table, [collection])
    return ClamBags(folder, collection.stores, table)


def _check(collection: Collection, settings: EmbedOptions) -> None:
    if settings.labels is not None and settings.layout != "clam":
        raise UsageError("--labels is for the table of --layout clam: leave it out, or pass --layout clam.")
    if settings.color == "label" and not (collection.labels >= 0).any():
        raise UsageError("The stores hold no labels: colour the map by slide.")
    if settings.projection == "umap":
        _umap(seed=0)  # say now, not after an hour of computing, that it is missing


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


def _draw(
    path: Path, run: _Run, files: Sequence[Path], collection: Collection, settings: EmbedOptions
) -> None:
    """The map of some patches of `collection`; `files` has the features of each of its stores."""
    projection, color, seed = settings.projection, settings.color, settings.seed
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(collection))[:_MAP_POINTS])
    points = project(_features_at(run, files, collection.subset(rows)), projection, seed=seed)
    if color == "label":
        names: tuple[str, ...] = (*collection.classes, "unlabelled")
        groups = collection.labels[rows].astype(np.int64)
        groups[groups < 0] = len(names) - 1
    else:
        names = tuple(store.meta.name for store in collection.stores)
        groups = collection.store_index[rows].astype(np.int64)
    save_scatter(path, points, groups, names, title=f"{len(rows)} patches by {color}, {projection.upper()}")


def _features_at(run: _Run, files: Sequence[Path], patches: Collection) -> Features:
    """Features (N, F) of patches, read back from the files of their stores."""
    parts = []
    for number, places in patches.rows_by_store():
        # Rising, as h5py wants them: a map's patches are in the order of stores and rows.
        rows = patches.row[places].astype(np.int64)
        if run.bags is not None:
            parts.append(run.bags.read(patches.stores[number], rows))
            continue
        with h5py.File(files[number], "r") as file:
            parts.append(np.asarray(file["features"][rows], np.float32))
    return np.concatenate(parts)


def project(features: Features, method: str = "pca", *, seed: int = 0) -> NDArray[np.float64]:
    """Features (N, F) as points (N, 2): principal components (signs fixed), or UMAP by cosine distance.

    Deterministic: a component's largest coefficient is positive, UMAP has `seed`. UsageError where umap-learn
    is not installed.
    """
    if method == "umap":
        with warnings.catch_warnings():  # umap says that a fixed seed costs it its threads: so it is meant
            warnings.simplefilter("ignore")
            return np.asarray(_umap(seed=seed).fit_transform(features), np.float64)
    centerd = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centerd.T @ centerd)
    best = axes[:, :-3:-1]  # (F, 2), largest first
    best = best * np.sign(best[np.abs(best).argmax(axis=0), np.arange(best.shape[1])])
    points: NDArray[np.float64] = centerd @ best
    return points


def _umap(*, seed: int) -> Any:
    try:
        from umap import UMAP
    except ImportError:
        raise UsageError("The projection umap needs umap-learn: install wsitool[umap], or use pca.") from None
    return UMAP(n_components=2, metric="cosine", random_state=seed)
