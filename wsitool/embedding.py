"""Features of whole stores, in the files that slide-level tools read, and a map of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.backbones import Encoder, build_backbone
from wsitool.classify.features import encode
from wsitool.errors import UsageError
from wsitool.file_names import file_names
from wsitool.paths import AnyPath, shown
from wsitool.progress import SILENT, Reporter
from wsitool.report.scatter import save_scatter
from wsitool.store import Collection, PatchStore, open_collection
from wsitool.store.attributes import coords_attributes, plain_text
from wsitool.store.collection import renumbered
from wsitool.store.files import Pending

__all__ = ["EmbedResult", "embed", "project"]

_MAP_POINTS = 5000
Features = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EmbedResult:
    """Files written: one of features per store, and the map; `method` is how it was projected."""

    files: tuple[Path, ...]
    map: Path
    method: str
    patches: int
    feature_dim: int


def embed(
    stores: AnyPath | Iterable[AnyPath],
    *,
    encoder: str | Path,
    out: str | Path,
    backbone: str | None = None,
    projection: str = "pca",
    colour: str = "slide",
    image_size: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    overwrite: bool = False,
    seed: int = 0,
    reporter: Reporter = SILENT,
) -> EmbedResult:
    """Write `out`/<slide>.h5 with `features` (N, F) float32 and `coords` (N, 2) per store, and `out`/map.png.

    The layout is CLAM's and TRIDENT's, row for row that of the store. Beside them stand `tissue` (N,) and,
    where the store has them, `label` (N,) int16 with the collection's `classes`, and `source` (N,).
    `projection` is "pca" or "umap" (needs umap-learn), `colour` "slide" or "label". Raises UsageError if
    these do not fit, or files exist already.
    """
    collection = open_collection(stores)
    _check(collection, projection, colour)
    folder = Path(out)
    names = [store.meta.name for store in collection.stores]
    targets = [folder / f"{name}.h5" for name in file_names(names)]
    existing = [str(path) for path in targets if path.exists()]
    if existing and not overwrite:
        raise UsageError(f"{existing[0]} exists already: pass --overwrite to replace it.")
    if len(set(names)) < len(names):
        raise UsageError("Two stores are of a slide of the same name: embed them into folders of their own.")
    built = build_backbone(backbone, init=encoder)
    size = image_size or built.card.image_size or collection.patch_size
    features = encode(
        built, collection, image_size=size, batch_size=batch_size, device=device, reporter=reporter
    )
    for index, (store, target) in enumerate(zip(collection.stores, targets, strict=True)):
        rows = collection.store_index == index
        _write(target, store, features[rows], built, collection.classes, overwrite=overwrite)
    _draw(folder / "map.png", features, collection, projection=projection, colour=colour, seed=seed)
    return EmbedResult(
        files=tuple(targets),
        map=folder / "map.png",
        method=projection,
        patches=len(features),
        feature_dim=features.shape[1],
    )


def _check(collection: Collection, projection: str, colour: str) -> None:
    if projection not in ("pca", "umap"):
        raise UsageError(f"The projection must be pca or umap, got '{projection}'.")
    if colour not in ("slide", "label"):
        raise UsageError(f"The map can be coloured by slide or label, got '{colour}'.")
    if colour == "label" and not (collection.labels >= 0).any():
        raise UsageError("The stores hold no labels: colour the map by slide.")
    if projection == "umap":
        _umap(seed=0)  # say now, not after an hour of computing, that it is missing


def _write(
    path: Path,
    store: PatchStore,
    features: Features,
    encoder: Encoder,
    classes: tuple[str, ...],
    *,
    overwrite: bool,
) -> None:
    pending = Pending(path, overwrite=overwrite)
    try:
        with h5py.File(pending.temporary, "w") as file:
            coords = file.create_dataset("coords", data=store.coords)
            coords.attrs.update(coords_attributes(store.meta, path.parent))
            data = file.create_dataset("features", data=features)
            data.attrs["name"] = plain_text(store.meta.name)
            data.attrs["encoder"] = encoder.card.backbone
            data.attrs["lineage"] = encoder.card.chain
            data.attrs["content_hash"] = store.content_hash
            _write_columns(file, store, classes)
        pending.commit()
    except BaseException:
        pending.discard()
        raise


def _write_columns(file: h5py.File, store: PatchStore, classes: tuple[str, ...]) -> None:
    """What else is known of each row; `label` counts in `classes`, the same in all files."""
    file["tissue"] = store.tissue
    if store.labels is not None:
        label = file.create_dataset("label", data=renumbered(store.labels, store.meta.classes, classes))
        label.attrs["classes"] = list(classes)
    if store.sources is not None:
        texts = [shown(str(name)) for name in store.sources]
        file.create_dataset("source", data=texts, dtype=h5py.string_dtype())


def _draw(
    path: Path, features: Features, collection: Collection, *, projection: str, colour: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(features))[:_MAP_POINTS])
    points = project(features[rows], projection, seed=seed)
    if colour == "label":
        names: tuple[str, ...] = (*collection.classes, "unlabelled")
        groups = collection.labels[rows].astype(np.int64)
        groups[groups < 0] = len(names) - 1
    else:
        names = tuple(store.meta.name for store in collection.stores)
        groups = collection.store_index[rows].astype(np.int64)
    save_scatter(path, points, groups, names, title=f"{len(rows)} patches by {colour}, {projection.upper()}")


def project(features: Features, method: str = "pca", *, seed: int = 0) -> NDArray[np.float64]:
    """Features (N, F) as points (N, 2): principal components (signs fixed), or UMAP by cosine distance."""
    if method == "umap":
        with warnings.catch_warnings():  # umap says that a fixed seed costs it its threads: so it is meant
            warnings.simplefilter("ignore")
            return np.asarray(_umap(seed=seed).fit_transform(features), np.float64)
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    best = axes[:, :-3:-1]  # (F, 2), largest first
    best = best * np.sign(best[np.abs(best).argmax(axis=0), np.arange(best.shape[1])])
    points: NDArray[np.float64] = centred @ best
    return points


def _umap(*, seed: int) -> Any:
    try:
        from umap import UMAP
    except ImportError:
        raise UsageError("The projection umap needs umap-learn: install wsitool[umap], or use pca.") from None
    return UMAP(n_components=2, metric="cosine", random_state=seed)
