"""Features of whole stores, in the files that slide-level tools read, and a map of them."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
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
from wsitool.backbones.features import encode, encoder_digest
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
from wsitool.errors import StoreError, UsageError
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
    """Write `out`/<slide>.h5 with `features` (N, F) float32 and `coords` (N, 2) per store, and `out`/map.png.

    The layout is CLAM's and TRIDENT's, row for row that of the store. Beside them stand `tissue` (N,) and,
    where the store has them, `label` (N,) int16 with the collection's `classes`, and `source` (N,).
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
    run.check(collection, targets)
    check_size(built, run.image_size, reporter)
    check_writable(folder)
    with locked(folder / "map.png", what=f"'{folder}'"):
        done, failed = _embed_each(run, collection, targets, folder, reporter)
        if done:
            rest = collection.subset(np.flatnonzero(np.isin(collection.store_index, list(done))))
            everything = np.concatenate(list(done.values()))
            _draw(folder / "map.png", everything, rest, settings)
            if bags is not None:
                bags.write_table(collection, list(done), reporter)
    files = [(targets[i],) if bags is None else bags.files(collection.stores[i]) for i in done]
    return EmbedResult(
        out=folder,
        files=tuple(path for own in files for path in own),
        map=folder / "map.png" if done else None,
        method=settings.projection,
        unit="stores" if bags is None else "bags",
        patches=sum(map(len, done.values())),
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
    )


def _embed_each(
    run: _Run, collection: Collection, targets: Sequence[Path], folder: Path, reporter: Reporter
) -> tuple[dict[int, Features], list[tuple[str, str]]]:
    """The features of each store by its number, and (store, reason) of those that failed."""
    done: dict[int, Features] = {}
    failed: list[tuple[str, str]] = []
    again = "do all once more" if run.overwrite else "go on"
    with (
        progress_on_stop(lambda: f"{len(done)} of {len(targets)} stores done; run again to {again}"),
        reporter.task("embed", total=len(targets), unit="stores") as task,
    ):
        for index, target in enumerate(targets):
            try:
                done[index] = run.embed_store(collection, index, target, reporter)
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
    bags: ClamBags | None = None

    def check(self, collection: Collection, targets: Sequence[Path]) -> None:
        """UsageError where a file is in the way that is not what would be written."""
        for store, target in zip(collection.stores, targets, strict=True):
            other: Path | None = target
            if self.bags is not None:
                other = self.bags.other(store, self._made_from(store))
            elif not target.exists() or self._finished(store, target) is not None:
                other = None
            if other is not None and not self.overwrite:
                raise UsageError(
                    f"{other} exists already and was not made of these patches with this encoder: pass "
                    "--overwrite to replace it."
                )

    def embed_store(self, collection: Collection, index: int, target: Path, reporter: Reporter) -> Features:
        """Write the features (N, F) of store number `index`, unless they are there, and return them."""
        store = collection.stores[index]
        if not self.overwrite and (kept := self._finished(store, target)) is not None:
            return kept
        store_rows = collection.subset(np.flatnonzero(collection.store_index == index))
        features = np.empty((0, self.encoder.feature_dim), np.float32)
        with explain_memory(lambda: self.room.advice(self.batch_size)):
            if len(store_rows):
                features = encode(
                    self.encoder,
                    store_rows,
                    image_size=self.image_size,
                    batch_size=self.batch_size,
                    device=self.device,
                    precision=self.precision,
                    decode=self.decode,
                    reporter=reporter,
                )
        if self.bags is not None:
            self.bags.write(store, features, lambda file, rows: self._describe(file, store, rows))
        else:
            self._write(target, store, features)
        return features

    def _write(self, path: Path, store: PatchStore, features: Features) -> None:
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
        _write_columns(file, store, self.classes, rows)

    @cached_property
    def _encoder_digest(self) -> str:
        return encoder_digest(self.encoder)

    def _made_from(self, store: PatchStore) -> str:
        bits = ("" if self.precision == "32" else f":{self.precision}") + decoder_mark(self.decode)
        identity = f"{self._encoder_digest}:{self.image_size}:{store.content_hash}:{self.classes}{bits}"
        identity += self.stains.get(store.content_hash, "")
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    def _finished(self, store: PatchStore, target: Path) -> Features | None:
        """The features of a file that an earlier run wrote of the same; None if there is none."""
        if self.bags is not None:
            return self.bags.kept(store, self._made_from(store))
        try:
            with h5py.File(target, "r") as file:
                data = file["features"]
                same = data.attrs.get("made_from") == self._made_from(store)
                kept: Features | None = np.asarray(data[:], np.float32) if same else None
        except (OSError, KeyError, AttributeError, RuntimeError):
            return None
        return kept if kept is not None and kept.shape == (len(store), self.encoder.feature_dim) else None


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


def _draw(path: Path, features: Features, collection: Collection, settings: EmbedOptions) -> None:
    projection, color, seed = settings.projection, settings.color, settings.seed
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(features))[:_MAP_POINTS])
    points = project(features[rows], projection, seed=seed)
    if color == "label":
        names: tuple[str, ...] = (*collection.classes, "unlabelled")
        groups = collection.labels[rows].astype(np.int64)
        groups[groups < 0] = len(names) - 1
    else:
        names = tuple(store.meta.name for store in collection.stores)
        groups = collection.store_index[rows].astype(np.int64)
    save_scatter(path, points, groups, names, title=f"{len(rows)} patches by {color}, {projection.upper()}")


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
