"""What is found in the folders that are given."""

from __future__ import annotations

import shutil
from pathlib import Path

from viewer.conftest import Lab

from wsitool.viewer.library import Library


def test_slides_that_were_not_tiled_are_there_with_their_predictions(lab: Lab, tmp_path: Path) -> None:
    """`predict` takes slides as they are, and whoever looks at its folder wants to see them."""
    for name in ("one.svs", "two <b>.svs"):
        shutil.copy(lab.slides / name, tmp_path / name)
    (tmp_path / "one_label.tiff").write_bytes(b"of the scanner")
    (tmp_path / "notes.txt").write_text("")
    library = Library([tmp_path, lab.folder / "predictions"])
    assert [group.kind for group in library.groups.values()] == ["predictions", "slides"]
    slides = {slide.name: slide for slide in library.slides.values()}
    assert sorted(slides) == ["one", "two <b>"] and slides["one"].status == "not tiled"
    assert [table.name for _, table in library.predictions_of(slides["one"])] == ["one.csv"]
    assert library.readable_source(slides["one"]) == tmp_path / "one.svs"
    # Of a collection's own slides there are no others.
    assert {slide.status for slide in Library([lab.folder]).slides.values()} == {"done", "failed"}
    assert len(Library([lab.slides]).slides) == 3
