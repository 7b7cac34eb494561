"""The work that labels and vertices cost is counted; seconds are for `bench_annotations.py`."""

from __future__ import annotations

import bench_annotations
import pytest
import shapely

from wsitool.slides import annotation_files, painting


@pytest.mark.benchmark
def test_only_patches_on_an_outline_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = []

    def counted(area: shapely.Geometry, *box: float) -> shapely.Geometry:
        cut.append(shapely.get_num_coordinates(area))
        return clip(area, *box)

    clip = shapely.clip_by_rect
    monkeypatch.setattr(painting.shapely, "clip_by_rect", counted)
    row = bench_annotations.compare_labels(900, 40)
    assert row["labelled"] > 20
    # An outline of 300 to 500 px crosses at most nine patches; none is united with all others before.
    assert len(cut) <= 9 * 40 and max(cut) <= 41


@pytest.mark.benchmark
@pytest.mark.parametrize("kind", ["geojson", "xml"])
def test_vertices_are_no_objects(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    for name in ("lift_json", "lift_xml"):
        lift = getattr(annotation_files, name)
        monkeypatch.setattr(
            annotation_files, name, lambda data, lift=lift: sizes.append(len(lift(data).rest)) or lift(data)
        )
    row = bench_annotations.compare_reading(20_000, kind)
    assert set(sizes) == {max(sizes)} and max(sizes) < 300  # bytes that the parser sees
    assert row["MB"] < 10
