"""What a folder of slides holds besides is told, and companions of slides are no slides."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsitool.errors import UsageError
from wsitool.slides.slide_list import find_slides


class _Told:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.say, self.warn = self.said.append, self.warned.append


def _found(folder: Path) -> tuple[list[str], _Told]:
    told = _Told()
    slides = find_slides(folder, reporter=told)  # type: ignore[arg-type]
    return [str(Path(slide.path).relative_to(folder)) for slide in slides], told


def _make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")


def test_what_is_passed_over_is_told_by_kind(tmp_path: Path) -> None:
    _make(tmp_path, "a.svs", "b/c.tif", "a.xml", "c.xml", "d.xml", "notes.txt", "a_thumbnail.jpg", "a.jpg")
    _make(
        tmp_path, "b/c-label.png", "b/c_whole.tif", "a.svs.png", "._a.svs", "README", "x.isyntax", "frame.ets"
    )
    names, told = _found(tmp_path)
    assert names == ["a.svs", "b/c.tif"]
    assert told.said == [
        f"Passed over in '{tmp_path}', as no slides: 5 thumbnails, labels or masks of slides (a.jpg, "
        "a.svs.png, ...), 3 .xml (a.xml, c.xml, ...), 1 hidden files (._a.svs), 1 without a suffix (README), "
        "1 .txt (notes.txt)."
    ]
    assert told.warned == [
        f"'{tmp_path}' holds slides that no reader here reads: 1 .ets (frame.ets), 1 .isyntax (x.isyntax); "
        "convert them, for instance to OME-Zarr (bioformats2raw)."
    ]


def test_pictures_of_their_own_are_slides(tmp_path: Path) -> None:
    _make(tmp_path, "a.png", "b.jpg", "a_2.png", "label.tif", "1.svs", "1.2.png")
    names, told = _found(tmp_path)
    assert names == ["1.2.png", "1.svs", "a.png", "a_2.png", "b.jpg", "label.tif"] and not told.said


def test_folders_that_belong_to_a_slide_are_not_searched(tmp_path: Path) -> None:
    _make(
        tmp_path,
        "a.mrxs",
        "a/x.png",
        "b.dzi",
        "b_files/9/0_0.png",
        "c_files/d.png",
        "_e_/stack1/f.tif",
        "e.vsi",
    )
    _make(tmp_path, "z.zarr/zarr.json", "z.zarr/patches/t.png")
    (tmp_path / "i.zarr").mkdir()
    (tmp_path / "i.zarr" / ".zattrs").write_text('{"multiscales": []}')
    names, told = _found(tmp_path)
    assert names == ["a.mrxs", "b.dzi", "c_files/d.png", "i.zarr"]
    assert "1 zarr groups, no images (z.zarr)" in told.said[0] and "1 .vsi (e.vsi)" in told.warned[0]


def test_a_folder_without_slides_says_what_it_holds(tmp_path: Path) -> None:
    _make(tmp_path, "a.csv", "b.csv", "c.csv")
    with pytest.raises(
        UsageError, match=r"no slide in the folder .*passed over: 3 \.csv \(a\.csv, b\.csv, \.\.\.\)"
    ):
        find_slides(tmp_path)
