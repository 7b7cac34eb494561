"""The benchmark of streaming at the size of a few tiles: it runs and counts, nothing is timed.

Full size, with ratios: `python tests/benchmarks/bench_stream.py`.
"""

from __future__ import annotations

from pathlib import Path

import bench_stream
import pytest
from tissue_slide import write_tissue_slide

from wsitool.store import regions
from wsitool.tiling.stream_options import StreamOptions


@pytest.mark.benchmark
def test_a_streamed_epoch_decodes_few_tiles_twice(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "_SIDE_PX", 2048)
    source = real_data / "slides" / "breast_her2st_B4.tiff"
    slide = write_tissue_slide(tmp_path / "t.svs", source, columns=16, rows=16)
    options = StreamOptions(level=0, patch_size=120, min_tissue=0)
    rates, ratio = bench_stream.run(slide, tmp_path, options, threads=2, rounds=1)
    assert set(rates) == {"store, raw", "store, jpeg", "slide, streamed"}
    assert 1 <= ratio <= 1.3
