"""Which command wrote a folder, by the files in it: what `info` says and which page `report` makes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import h5py

from wsitool.base.json_files import read_json
from wsitool.curate.import_summary import IMAGES_CSV
from wsitool.store.foreign import features_folder
from wsitool.store.opening import find_stores
from wsitool.tiling.results import SLIDES_CSV

__all__ = ["FolderKind", "holds_features", "kind_of_folder"]

FolderKind = Literal["pretrain", "classify", "run", "experiment", "predict", "embed", "import", "tile"]

RUN = "run.json"
_EXPERIMENT = ("plan.json", "manifest.json")
_SUMMARY, _SUMMARY_COLUMNS = "summary.csv", {"slide", "verdict", "made_from"}


def kind_of_folder(path: Path) -> FolderKind | None:
    """The command whose output `path` is, "run" for a run.json of another one; None for any other folder.

    Of a folder with several of these it is the first in the order of `FolderKind`.
    """
    if (path / RUN).is_file():
        return _of_run(path / RUN)
    if all((path / name).is_file() for name in _EXPERIMENT):
        return "experiment"
    if _has_columns(path / _SUMMARY, _SUMMARY_COLUMNS):
        return "predict"
    stores = find_stores(path) if path.is_dir() else []
    features = find_stores(features_folder(path))
    if features and holds_features(features[0]):
        return "embed"
    if (path / IMAGES_CSV).is_file():
        return "import"
    return "tile" if stores or _has_columns(path / SLIDES_CSV, {"name", "counts"}) else None


def _of_run(path: Path) -> FolderKind:
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return "run"
    command = record.get("command") if isinstance(record, dict) else None
    return command if command in ("pretrain", "classify") else "run"


def _has_columns(path: Path, columns: set[str]) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            return columns <= set(next(csv.reader([file.readline()]), []))
    except (OSError, csv.Error):
        return False


def holds_features(path: Path) -> bool:
    """Whether a file is one of `embed`, whose names are those of the stores."""
    try:
        with h5py.File(path, "r") as file:
            return "made_from" in file["features"].attrs
    except (OSError, KeyError, RuntimeError):
        return False
