"""Which module draws the sections of the page of which kind of folder."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wsitool.curate.folders import FolderKind
from wsitool.report.page import Page

__all__ = ["PAGES", "Folder", "PageEntry"]


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The folder of a page, and the `commands` known to have written it, each as words."""

    path: Path
    commands: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class PageEntry:
    """A kind of page: its heading, and "module:function" that adds its sections to a `Page`.

    The function reads what is in the folder and little else; it says in a section what cannot be shown.
    """

    title: str
    sections: str

    def draw(self, page: Page, folder: Folder) -> None:
        module, function = self.sections.split(":")
        drawn: Callable[[Page, Folder], None] = getattr(importlib.import_module(module), function)
        drawn(page, folder)


PAGES: Mapping[FolderKind, PageEntry] = {
    "tile": PageEntry(title="Patches of slides", sections="wsitool.pages.patches:tiled"),
    "import": PageEntry(title="Patches of images", sections="wsitool.pages.patches:imported"),
    "pretrain": PageEntry(title="Pretraining", sections="wsitool.pages.pretraining:sections"),
    "embed": PageEntry(title="Features", sections="wsitool.pages.features:sections"),
    "classify": PageEntry(title="A classifier", sections="wsitool.pages.classification:sections"),
    "predict": PageEntry(title="Predictions", sections="wsitool.pages.predictions:sections"),
}
"""By the kinds of `kind_of_folder`; an experiment writes its page itself."""
