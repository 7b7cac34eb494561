"""The tiling benchmark at the size of a few tiles: every contender runs and counts, nothing is timed.

Full size, with ratios: `python tests/benchmarks/bench_tiling.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import bench_tiling
import openslide
import pytest
from tissue_slide import write_tissue_slide

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def slide(real_data: Path, tmp_path: Path) -> Path:
    source = real_data / "slides" / "breast_her2st_B4.tiff"
    return write_tissue_slide(tmp_path / "t.svs", source, columns=16, rows=16)


def test_every_contender_cuts_every_patch(slide: Path, tmp_path: Path) -> None:
    with openslide.OpenSlide(slide) as opened:
        assert opened.level_dimensions == ((4096, 4096), (1024, 1024), (256, 256))
    counts = {}
    for name, run in bench_tiling.candidates(slide, tmp_path).items():
        counts[name] = run()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    for name in ("wsitool raw, 1 thread", "wsitool raw, 2 threads", "wsitool jpeg, 2 threads"):
        assert counts[name] == 18 * 18
    assert counts["wsitool native, 1 thread"] == 16 * 16
    assert counts["wsitool 40x to 20x raw, 1 thread"] == 9 * 9
    assert counts["wsitool patches in memory, 2 threads"] == counts["decode-once limit, 2 threads"] == 18 * 18
    assert all(counts.values())


def test_memory_and_flatness_are_measured(slide: Path, tmp_path: Path) -> None:
    peak, flat, number = bench_tiling.memory_and_flatness(slide, tmp_path)
    assert 50 < peak < 400 and flat > 0 and number == 18 * 18
