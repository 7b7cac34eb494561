"""A slide that changes while it is read fails: its patches would be a mix of two files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from wsitool.errors import SlideError
from wsitool.slides.readers import open_slide
from wsitool.slides.readers.openslide import OpenSlideSlide
from wsitool.slides.spec import TileSpec
from wsitool.testing.synthetic import synthetic_slide
from wsitool.tiling import source
from wsitool.tiling.run import tile_slide, tile_slides

_SPEC = TileSpec(level=0, patch_size=64, codec="raw", min_tissue=0)


def _rewritten(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def _replaced(path: Path) -> None:
    other = Path(shutil.copy2(path, path.with_suffix(".new")))
    other.replace(path)  # the same size, time and content: but another file may be another one


def _grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")
    os.utime(path, ns=(0, 0))


def _touched_back(path: Path) -> None:
    status = path.stat()
    _rewritten(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.parametrize("reader", ["tiff", "openslide", "image", "tiffslide"])
@pytest.mark.parametrize("change", [_rewritten, _replaced, _grown, _touched_back, Path.unlink])
def test_a_file_that_changes_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, change: Callable[[Path], None]
) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(400, 300), levels=(1,))
    real = source.find_tissue

    def meanwhile(*args: object, **options: object) -> object:
        mask = real(*args, **options)  # type: ignore[arg-type]
        change(path)
        return mask

    monkeypatch.setattr(source, "find_tissue", meanwhile)
    result = tile_slides([path], tmp_path / "o", _SPEC, reader=reader).slides[0]
    assert result.failed and "changed while it was read" in result.reason, result.reason
    assert not list((tmp_path / "o").glob("*.h5")) and not list((tmp_path / "o").glob(".*.partial"))


def test_a_file_that_is_only_read_is_unchanged(tmp_path: Path) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(400, 300), levels=(1,))
    with open_slide(path) as slide:
        path.read_bytes()
        path.chmod(0o444)
        slide.check_unchanged()


def test_an_url_whose_file_changes(tmp_path: Path) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(400, 300), levels=(1,))
    url = "memory://changing/s.svs"
    with fsspec.open(url, "wb") as file:
        file.write(path.read_bytes())
    with open_slide(url) as slide:
        slide.check_unchanged()
        with fsspec.open(url, "wb") as file:
            file.write(path.read_bytes() + b"more")
        with pytest.raises(SlideError, match="changed while it was read"):
            slide.check_unchanged()
        fsspec.filesystem("memory").rm(url)
        with pytest.raises(SlideError, match="changed while it was read"):
            slide.check_unchanged()


def test_companions_of_a_slide_of_several_files(tmp_path: Path) -> None:
    """An MRXS is a small file that names a folder: the pixels are in the folder."""
    path = synthetic_slide(tmp_path / "s.mrxs", size=(400, 300), levels=(1,))
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "Data0000.dat").write_bytes(b"pixels")
    with open_slide(path, reader="openslide") as slide:
        assert isinstance(slide, OpenSlideSlide)
        slide.check_unchanged()
        (tmp_path / "s" / "notes.txt").write_text("of no importance")
        slide.check_unchanged()
        (tmp_path / "s" / "Data0000.dat").write_bytes(b"others")
        with pytest.raises(SlideError, match=r"files beside .* changed while it was read"):
            slide.check_unchanged()


def test_an_undisturbed_slide_is_stored(tmp_path: Path) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(400, 300), levels=(1,))
    assert tile_slide(path, tmp_path, _SPEC).status == "done"
