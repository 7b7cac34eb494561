"""Features made elsewhere: files of CLAM and TRIDENT, joined to patches by slide and coordinates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import nn

from wsitool.backbones.card import EncoderCard, LineageStep
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.features import encode
from wsitool.base.file_names import safe_name
from wsitool.base.paths import shown
from wsitool.errors import StoreError, UsageError
from wsitool.store.collection import Collection
from wsitool.store.foreign import features_folder
from wsitool.store.schema import PatchStore

__all__ = ["FEATURES_PREFIX", "FeatureFiles", "StandIn", "features_of"]

FEATURES_PREFIX = "features:"
Features = NDArray[np.float32]
# Level-0 pixels by which sides may differ: TRIDENT writes whole ones.
_ROUNDING = 1.0


@dataclass(frozen=True, kw_only=True)
class FeatureFiles:
    """The h5 files of a folder by slide; `name` is what the folder is called ("features_uni_v1")."""

    name: str
    files: dict[str, Path]

    @classmethod
    def at(cls, folder: str | Path) -> FeatureFiles:
        """The files in `folder`, or in its h5_files as CLAM has them; UsageError where there are none."""
        root = Path(folder)
        files = {path.stem: path for path in sorted(features_folder(root).glob("*.h5"))}
        if not files:
            raise UsageError(
                f"'{folder}' holds no feature files: pass a folder of CLAM's or TRIDENT's .h5 files."
            )
        return cls(name=root.resolve().name, files=files)

    def rows(self, collection: Collection) -> Features:
        """Features (N, D) of every patch of `collection`, in its order.

        StoreError for a slide without a file or a patch without a row, for files that cannot be read or are
        of patches of another size, and for values that are not finite.
        """
        parts = [
            (places, self._of_store(collection.stores[number], collection.row[places]))
            for number, places in collection.rows_by_store()
        ]
        widths = {part.shape[1] for _, part in parts}
        if len(widths) > 1:
            raise StoreError(
                f"The feature files of '{self.name}' are of {sorted(widths)} values each: take one kind."
            )
        features = np.empty((len(collection), widths.pop()), np.float32)
        for places, part in parts:
            features[places] = part
        return features

    def stand_in(self, collection: Collection) -> StandIn:
        """What stands where an encoder would, for runs on `collection`."""
        features = self.rows(collection)
        digest = hashlib.sha256(features.tobytes()).hexdigest()
        card = EncoderCard(
            backbone=f"{FEATURES_PREFIX}{self.name}",
            feature_dim=features.shape[1],
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            # So that a run on other features of the same name is another run.
            args={"features": digest},
            lineage=(LineageStep(kind="file", name=self.name, fingerprint=digest),),
        )
        return StandIn(self, card)

    def _of_store(self, store: PatchStore, store_rows: NDArray[np.integer]) -> Features:
        name = store.meta.name
        path = self.files.get(name) or self.files.get(safe_name(name))
        if path is None:
            raise StoreError(
                f"There are no features of '{name}' in '{self.name}': add {name}.h5, or leave it out."
            )
        features, positions, sources = _read(path, store)
        # Positions are of an image, where a store has patches of several.
        has_sources = sources is not None and store.sources is not None
        keys = _keys(positions, sources if has_sources else None)
        row_of = {key: row for row, key in enumerate(keys)}
        if len(row_of) < len(keys):
            raise StoreError(
                f"'{path}' has several rows at one position, so its features cannot be told apart: make one "
                "file per image, or make them with 'wsitool embed'."
            )
        names = np.asarray(store.sources)[store_rows].tolist() if has_sources else None
        patches = _keys(store.coords[store_rows], names)
        lacking = [key for key in patches if key not in row_of]
        if lacking:
            raise StoreError(
                f"'{path}' has no features for {len(lacking)} of {len(patches)} patches of '{name}' (first "
                f"at {lacking[0][1:]}): make them at the positions that 'wsitool export' writes."
            )
        picked: Features = features[np.array([row_of[key] for key in patches], np.int64)]
        if not np.isfinite(picked).all():
            raise StoreError(f"'{path}' holds features that are not finite: make it again.")
        return picked


class StandIn(Encoder):
    """Says the name and width of features made elsewhere as an encoder would, and cannot be run."""

    def __init__(self, files: FeatureFiles, card: EncoderCard) -> None:
        super().__init__(nn.Identity(), card)
        self._files = files
        self._kept: list[tuple[Collection, Features]] = []

    def features(self, collection: Collection) -> Features:
        """As `FeatureFiles.rows`; those of the latest two collections are kept."""
        for known, rows in self._kept:
            if known is collection:
                return rows
        rows = self._files.rows(collection)
        self._kept = [*self._kept[-1:], (collection, rows)]
        return rows


def features_of(encoder: Encoder, collection: Collection, **how: Any) -> Features:
    """As `encode`, which takes `how`; of a stand-in the features that it stands for."""
    return (
        encoder.features(collection) if isinstance(encoder, StandIn) else encode(encoder, collection, **how)
    )


def _keys(positions: NDArray[np.int64], names: Sequence[Any] | None) -> list[tuple[str, int, int]]:
    """What a patch is known by: its image, where that is known, and its position."""
    texts = [""] * len(positions) if names is None else [shown(str(name)) for name in names]
    return [(text, x, y) for text, (x, y) in zip(texts, positions.tolist(), strict=True)]


def _read(path: Path, store: PatchStore) -> tuple[Features, NDArray[np.int64], list[str] | None]:
    """Features (N, D), level-0 positions (N, 2) and, where the file has them, images (N,) of one file."""
    try:
        with h5py.File(path, "r") as file:
            stored, coords = file["features"], file["coords"]
            features = np.asarray(stored[()], np.float32)
            positions = np.asarray(coords[()], np.int64)
            side = _side(coords)
            sources = list(file["source"].asstr()[()]) if "source" in file else None
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise StoreError(
            f"'{path}' cannot be read as a feature file with features and coords ({error})."
        ) from None
    # TRIDENT and older CLAM keep an axis of one slide in front.
    features = features[0] if features.ndim == 3 and len(features) == 1 else features
    positions = positions[0] if positions.ndim == 3 and len(positions) == 1 else positions
    if features.ndim != 2 or positions.shape != (len(features), 2):
        raise StoreError(
            f"'{path}' must hold features (N, D) and coords (N, 2), got {features.shape}, {positions.shape}."
        )
    if sources is not None and len(sources) != len(features):
        sources = None
    if side is not None and abs(side - store.meta.patch_size_level0) > _ROUNDING:
        raise StoreError(
            f"'{path}' is of patches {side:g} px wide at level 0, and those of '{store.meta.name}' are "
            f"{store.meta.patch_size_level0:g}: make both of the same patches."
        )
    return features, positions, sources


def _side(coords: Any) -> float | None:
    value = coords.attrs.get("patch_size_level0")
    return None if value is None else float(value)
