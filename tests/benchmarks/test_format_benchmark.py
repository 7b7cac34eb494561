"""The benchmark of formats at the size of a few tiles: every contender cuts every patch, nothing is timed."""

from __future__ import annotations

import shutil
from pathlib import Path

import bench_formats
import pytest

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


def test_every_contender_cuts_every_patch(real_data: Path, tmp_path: Path) -> None:
    series = real_data / "cases" / "slides" / "dicom_series"
    slides = bench_formats.write_slides(series, tmp_path, columns=8, rows=8)
    for name, run in bench_formats.candidates(slides, tmp_path).items():
        assert run() == 81, name
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
