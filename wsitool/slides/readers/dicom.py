"""Which DICOM files belong together: a whole-slide series is one slide of many files, read by OpenSlide."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import openslide

__all__ = ["dicom_series"]

_SERIES = "dicom.SeriesInstanceUID"


def dicom_series(files: Iterable[Path]) -> dict[str, list[Path]]:
    """The files of each series by its SeriesInstanceUID, in the order given.

    A file that is no whole-slide image is a series of its own, under its path. Each file is opened, which
    makes OpenSlide look at those beside it.
    """
    series: dict[str, list[Path]] = {}
    for file in files:
        series.setdefault(_series_of(file), []).append(file)
    return series


def _series_of(file: Path) -> str:
    try:
        with openslide.OpenSlide(file) as handle:
            return str(handle.properties.get(_SERIES, file))
    except (openslide.OpenSlideError, OSError, ValueError):
        return str(file)
