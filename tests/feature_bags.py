"""Files of features of small slides, as embed, CLAM and TRIDENT write them, whose class some patches tell."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

DIM = 6


def drawn(seed: int, label: int, patches: int = 12, *, telling: int = 4) -> NDArray[np.float32]:
    """Features (n, 6): of `telling` patches the one numbered by the class is high."""
    features = np.random.default_rng(seed).normal(size=(patches, DIM)).astype(np.float32)
    features[:telling, label] += 5
    return features


def write_features(
    path: Path, features: NDArray[np.floating], *, encoder: str = "", digest: str = ""
) -> Path:
    """An .h5 with features and coords on a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = features
        file["coords"] = np.stack([np.arange(features.shape[-2]) * 256, np.zeros(features.shape[-2], int)], 1)
        if encoder:
            file["features"].attrs["encoder"] = encoder
        if digest:
            file["features"].attrs["features_digest"] = digest
    return path


def feature_folder(folder: Path, *, slides: int = 12, per_patient: int = 2, classes: int = 2) -> Path:
    """`folder`/features with s0.h5 ... and `folder`/slides.csv; all slides of a patient have its class."""
    lines = ["file,label,group"]
    for number in range(slides):
        patient = number // per_patient
        label = patient % classes
        write_features(folder / "features" / f"s{number}.h5", drawn(number, label, 5 + 3 * (number % 4)))
        lines.append(f"s{number}.svs,{'abc'[label]},p{patient}")
    (folder / "slides.csv").write_text("\n".join(lines))
    return folder / "features"
