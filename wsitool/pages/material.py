"""Small pictures of patches, read again from stores and slides; the caller bounds how many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.base.file_names import lone_file_name
from wsitool.base.pictures import SMALL_SIDE
from wsitool.base.urls import is_url
from wsitool.curate.folders import kind_of_folder
from wsitool.errors import WsitoolError
from wsitool.predict.prediction import image_name
from wsitool.slides.readers import open_slide
from wsitool.slides.slide import Slide
from wsitool.slides.slide_list import find_slides, slide_name
from wsitool.store.opening import SUFFIXES, find_stores, open_store
from wsitool.store.reader import Reader

__all__ = ["Inputs", "read_square", "some"]


def read_square(
    slide: Slide, x0: int, y0: int, size_level0: float, *, side: int = SMALL_SIDE
) -> NDArray[np.uint8]:
    """The square of `size_level0` at level-0 (x0, y0), from the coarsest level that has `side` pixels of it.

    Raises RegionReadError.
    """
    wanted = max(1.0, size_level0 / side)
    levels = [i for i, level in enumerate(slide.info.levels) if level.downsample <= wanted * 1.01]
    level = max(levels, key=lambda i: slide.info.levels[i].downsample, default=0)
    pixels = max(1, round(size_level0 / slide.info.levels[level].downsample))
    return slide.read_region(x0, y0, level, pixels, pixels)


def some(number: int, most: int) -> NDArray[np.int64]:
    """At most `most` of the numbers 0 ... `number` - 1, drawn without a pattern, always the same; sorted."""
    # Every third slide of a set that lists three kinds in turn would be one kind.
    drawn = np.random.default_rng(0).choice(number, min(number, most), replace=False)
    return np.sort(drawn).astype(np.int64)


@dataclass(frozen=True)
class Inputs:
    """The stores and slides that the words of some commands name, where they are there."""

    commands: Sequence[Sequence[str]]

    @cached_property
    def _stores(self) -> dict[str, list[Path]]:
        stores: dict[str, list[Path]] = {}
        for path in self._paths():
            for store in find_stores(path):
                stores.setdefault(store.stem, []).append(store)
        return stores

    @cached_property
    def _slides(self) -> dict[str, str]:
        slides: dict[str, str] = {}
        for path in self._paths():
            # Pictures of an output would pass for slides.
            if path.suffix in SUFFIXES or path.suffix == ".safetensors" or kind_of_folder(path) is not None:
                continue
            with suppress(WsitoolError, OSError, ValueError):
                slides |= {slide.name: slide.path for slide in find_slides(path) if not is_url(slide.path)}
        return slides

    def _paths(self) -> Iterator[Path]:
        # Options' values, too: --test names stores as well.
        for word in dict.fromkeys(word for words in self.commands for word in words[2:]):
            with suppress(OSError, ValueError):
                if (path := Path(word)).exists():
                    yield path

    def store(self, name: str, content_hash: str | None = None) -> Reader | None:
        """The store of a slide called `name`, of that content where it is given."""
        for path in self._stores.get(lone_file_name(name), []):
            with suppress(WsitoolError, OSError):
                store = open_store(path)
                if store.meta.name == name and content_hash in (None, store.content_hash):
                    return store
                store.close()
        return None

    def slide(self, name: str) -> Slide | None:
        """The slide called `name`, open."""
        path = self._slides.get(name)
        if path is None or slide_name(path) != name:
            return None
        with suppress(WsitoolError, OSError):
            return open_slide(path)
        return None

    def squares(
        self, name: str, group: str, corners: Sequence[tuple[int, int]], size_level0: float
    ) -> list[NDArray[np.uint8]] | None:
        """Patches of a slide at level-0 `corners`, from its store or itself; None where neither is there.

        `name` may be that of an image in the store of its `group`, too.
        """
        with ExitStack() as stack:
            store = self.store(name) or self.store(group)
            if store is not None:
                stack.enter_context(store)
                with suppress(WsitoolError, IndexError):
                    return list(store.read(_rows_at(store, name, corners)))
            slide = self.slide(name)
            if slide is None:
                return None
            stack.enter_context(slide)
            with suppress(WsitoolError):
                return [read_square(slide, x, y, size_level0) for x, y in corners]
        return None


def _rows_at(store: Reader, name: str, corners: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """The rows at `corners`, of the image called `name` where it is a store of images; IndexError if none."""
    coords, mine = store.coords, np.ones(len(store), bool)
    if store.sources is not None:
        sources = store.sources
        mine = np.isin(sources, [one for one in np.unique(sources) if image_name(str(one)) == name])
    elif store.meta.name != name:
        raise IndexError(name)
    rows = [np.flatnonzero(mine & (coords == corner).all(axis=1))[0] for corner in corners]
    return np.array(rows, np.int64)
