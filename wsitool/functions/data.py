"""Slides and images to patch stores; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsitool.base.console import ProgressChoice, reporter_of
from wsitool.base.parameters import take
from wsitool.base.paths import AnyPath, as_list
from wsitool.curate.import_options import ImportOptions
from wsitool.functions.options import command_words, keywords, known
from wsitool.slides.slide_list import SlideInput
from wsitool.slides.spec import QualityThresholds, TileSpec
from wsitool.tiling.options import TileOptions

if TYPE_CHECKING:
    from wsitool.curate.importing import ImportResult
    from wsitool.tiling.results import TileResult

__all__ = ["import_images", "tile"]

_TILE = (TileSpec, QualityThresholds, TileOptions)


@keywords(*_TILE)
def tile(
    slides: AnyPath | SlideInput | Iterable[AnyPath | SlideInput],
    out: str | Path,
    *,
    progress: ProgressChoice = None,
    **options: Any,
) -> TileResult:
    """Cut slides (files, folders, URLs, CSVs with path and optional mpp, group, label) into patch stores.

    Options are those of `wsitool tile`. A slide whose store is complete and was made in the same way is left
    alone; one that fails is told of in the result, and the others are complete. `progress` is as in
    `wsitool.base.console.reporter_of`: None draws a bar where somebody looks, False shows warnings only, a
    function is called with (what, done, total). UsageError for options that cannot work together.

    >>> result = wsitool.tile("slide.svs", "patches", patch_size=128, level=0)
    >>> [slide.status for slide in result.slides], result.kept > 0
    (['done'], True)
    """
    given = known("tile", options, *_TILE)
    inputs = as_list(slides, one=(SlideInput,))
    words = [each.path if isinstance(each, SlideInput) else each for each in inputs]
    words_of_all = command_words("tile", words, out, given, *_TILE)
    spec = take(TileSpec, given, limits=take(QualityThresholds, given).limits)

    from wsitool.tiling.run import tile_slides

    result = tile_slides(inputs, out, spec, reporter=reporter_of(progress), **given)
    return replace(result, command=words_of_all)


@keywords(ImportOptions)
def import_images(
    folder: AnyPath, out: str | Path, *, progress: ProgressChoice = None, **options: Any
) -> ImportResult:
    """Bring ready-made patch images of `folder` into patch stores, one per group (patient).

    Options are those of `wsitool import`: subfolders are classes, or `labels` is a table of them; larger
    images are cut on a grid. A store that is complete and was made in the same way is left alone; an image
    that fails is told of in the result. UsageError or LabelError before anything is written.

    >>> result = wsitool.import_images("images", "imported", min_tissue=0, codec="raw")
    >>> result.classes, result.patches, result.patch_size
    (('adh', 'benign'), 4, 32)
    """
    given = known("import_images", options, ImportOptions)
    (path,) = as_list(folder)
    words = command_words("import", [path], out, given, ImportOptions)

    from wsitool.curate.importing import import_images as write_stores

    return replace(write_stores(path, out, reporter=reporter_of(progress), **given), command=words)
