"""The page of `embed`: the map, and what each file holds."""

from __future__ import annotations

from pathlib import Path

import h5py

from wsitool.pages.material import some
from wsitool.pages.registry import Folder
from wsitool.report.page import Page
from wsitool.store.foreign import features_folder
from wsitool.store.opening import find_stores

__all__ = ["sections"]

_OPENED = 50
_MAP = "map.png"


def sections(page: Page, folder: Folder) -> None:
    """From map.png and the headers of at most fifty files."""
    files = find_stores(features_folder(folder.path))
    opened = [files[index] for index in some(len(files), _OPENED)]
    rows, about = [], dict[str, str]()
    for path in opened:
        row, facts = _of(path)
        rows.append(row)
        about |= facts
    page.text(f"{len(files):,} files of features. Lineage: {about.get('lineage', 'not known')}.")
    if (folder.path / _MAP).is_file():
        page.section("Map", "Patches whose features are alike lie close to each other.")
        page.image(folder.path / _MAP)
    page.section("Files").table(
        ("file", "patches", "features"),
        rows,
        f"{len(rows)} of {len(files):,} files." if len(files) > len(rows) else "",
    )
    page.section("Settings and versions").table(("setting", "value"), list(about.items()))


def _of(path: Path) -> tuple[tuple[str, str, str], dict[str, str]]:
    try:
        with h5py.File(path, "r") as file:
            data = file["features"]
            facts = {name: str(data.attrs[name]) for name in ("encoder", "lineage") if name in data.attrs}
            return (path.name, f"{data.shape[0]:,}", str(data.shape[1])), facts
    except (OSError, KeyError, RuntimeError, IndexError) as error:
        return (path.name, "cannot be read", str(error)[:120]), {}
