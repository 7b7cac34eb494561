"""JPEG patches keep the color resolution of their source; other people's readers say which that is."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner
from PIL import Image, JpegImagePlugin

from wsitool.base.progress import SILENT
from wsitool.cli import main
from wsitool.curate.import_options import ImportOptions
from wsitool.curate.importing import import_images
from wsitool.curate.verifying import verify_store
from wsitool.errors import StoreError
from wsitool.slides.slide_list import SlideInput
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import create_store, open_store
from wsitool.store.schema import Candidates, Rows
from wsitool.testing import draw_tissue
from wsitool.testing.stores import example_meta, example_patches
from wsitool.tiling.resume import finished
from wsitool.tiling.run import tile_slide, tile_slides
from wsitool.tiling.slide_task import SlideTask

PILLOWS = {0: "444", 1: "422", 2: "420"}
SPEC = TileSpec(level=0, patch_size=64, min_tissue=0)
# A slide by compression and what tifffile is told; what its patches are to be.
SOURCES: dict[str, tuple[str | None, dict[str, Any], str]] = {
    "rgb": ("jpeg", {"photometric": "rgb", "compressionargs": {"outcolorspace": "RGB"}}, "444"),
    "ycbcr444": ("jpeg", {"photometric": "ycbcr", "subsampling": (1, 1)}, "444"),
    "ycbcr422": ("jpeg", {"photometric": "ycbcr", "subsampling": (2, 1)}, "444"),
    "ycbcr420": ("jpeg", {"photometric": "ycbcr", "subsampling": (2, 2)}, "420"),
    "lossless": ("zlib", {"photometric": "rgb"}, "444"),
    "jpeg2000": ("jpeg2000", {"photometric": "rgb"}, "444"),
}


def _slide(folder: Path, kind: str) -> Path:
    compression, options, _ = SOURCES[kind]
    path = folder / f"{kind}.tif"
    pixels = draw_tissue(512, 256, kind="benign", glass=0.0)
    tifffile.imwrite(path, pixels, tile=(256, 256), compression=compression, **options)
    return path


def _by_pillow(stream: bytes) -> str:
    with Image.open(io.BytesIO(stream)) as image:
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        return PILLOWS[JpegImagePlugin.get_sampling(image)]


@pytest.mark.parametrize("kind", SOURCES)
def test_patches_have_the_color_resolution_of_their_slide(tmp_path: Path, kind: str) -> None:
    expected = SOURCES[kind][2]
    slide = _slide(tmp_path, kind)
    done = tile_slide(slide, tmp_path / "auto", SPEC, default_mpp=0.5)
    with open_store(done.store) as store:
        assert {_by_pillow(stream) for stream in store.encoded(range(len(store)))} == {expected}
        assert store.meta.subsampling == expected and "subsampling" not in store.meta.params
    assert verify_store(done.store, slide=slide).sound


def test_the_figures_told_are_those_of_the_patches(real_data: Path, tmp_path: Path) -> None:
    """Of a real RGB-JPEG slide: 4:2:0 costs ten decibels, and what is told is what is measured here."""
    slide = real_data / "slides" / "CMU-1-Small-Region.svs"
    told: dict[str, float] = {}
    for asked in ("auto", "420"):
        spec = TileSpec(level=0, patch_size=224, subsampling=asked)  # type: ignore[arg-type]
        done = tile_slide(slide, tmp_path / asked, spec)
        assert done.psnr is not None
        told[asked] = done.psnr
        truth = tifffile.imread(slide)
        with open_store(done.store) as store:
            errors = [
                np.square(patch.astype(float) - truth[y : y + 224, x : x + 224]).mean()
                for patch, (x, y) in zip(store, store.coords.tolist(), strict=True)
            ]
        assert done.psnr == pytest.approx(10 * np.log10(255**2 / np.mean(errors)), abs=1)
    assert told["auto"] > told["420"] + 8
    options = ["--out", str(tmp_path / "cli"), "--level", "0", "--no-report"]
    output = CliRunner().invoke(main, ["tile", str(slide), *options]).output
    assert f"kB and is, by a sample, {told['auto']} dB (4:4:4) from its slide's pixels." in output, output


def test_the_figure_lies_in_the_store(tmp_path: Path) -> None:
    """A run that ended between the store and its table tells it no less when run again."""
    slide = _slide(tmp_path, "rgb")
    inputs = [SlideInput(path=str(slide), mpp=0.5)]
    (first,) = tile_slides(inputs, tmp_path / "o", SPEC).slides
    Path(tmp_path, "o", "slides.csv").unlink()
    (again,) = tile_slides(inputs, tmp_path / "o", SPEC).slides
    assert again.status == "skipped" and again.psnr == first.psnr
    with open_store(first.store) as store:
        assert store.psnr == first.psnr


def test_the_figure_does_not_depend_on_the_threads(tmp_path: Path) -> None:
    slide = _slide(tmp_path, "rgb")
    figures = {
        tile_slides([SlideInput(path=str(slide), mpp=0.5)], tmp_path / str(workers), SPEC, workers=workers)
        .slides[0]
        .psnr
        for workers in (1, 2)
    }
    assert len(figures) == 1


def test_a_store_of_before_is_left_alone(tmp_path: Path) -> None:
    """It states no color resolution, and its options are those of the same command today."""
    slide = _slide(tmp_path, "rgb")
    task = SlideTask(slide=SlideInput(path=str(slide), mpp=0.5), out_dir=tmp_path / "o", spec=SPEC)
    tile_slides([task.slide], task.out_dir, SPEC, workers=1)
    assert finished(task, SILENT) is not None
    with h5py.File(task.store, "r+") as file:
        del file.attrs["subsampling"]
    assert finished(task, SILENT) is not None
    explicit = replace(task, spec=replace(SPEC, subsampling="444"))
    with pytest.raises(StoreError, match="subsampling 'auto' instead of '444'"):
        finished(explicit, SILENT)


@pytest.mark.parametrize("stated", ["420", "444"])
def test_zarr_says_it_and_plain_zarr_reads_it(tmp_path: Path, stated: str) -> None:
    meta = replace(example_meta("jpeg"), subsampling=stated)  # type: ignore[arg-type]
    patches, coords = example_patches(3), np.array([[0, 0], [32, 0], [64, 0]], np.int64)
    tissue = np.ones(3, np.float32)
    with create_store(tmp_path / "s.zarr", meta) as writer:
        writer.append(Rows(patches=patches, coords=coords, tissue=tissue))
        writer.finish(Candidates(coords=coords, tissue=tissue, reason=np.zeros(3, np.uint8)), counts={})
    array = zarr.open_group(tmp_path / "s.zarr", mode="r")["patches"]
    assert f"'subsampling': '{stated}'" in str(array.metadata.to_dict())  # type: ignore[union-attr]
    with open_store(tmp_path / "s.zarr") as store:
        assert {_by_pillow(stream) for stream in store.encoded([0, 1, 2])} == {stated}
        assert np.abs(np.asarray(array[:], int) - store.read([0, 1, 2])).max() <= 2  # type: ignore[index]


def test_what_contradicts_itself_is_told(tmp_path: Path) -> None:
    done = tile_slide(_slide(tmp_path, "rgb"), tmp_path / "o", SPEC, default_mpp=0.5)
    with h5py.File(done.store, "r+") as file:
        file.attrs["subsampling"] = "420"
    (check,) = [check for check in verify_store(done.store).checks if check.problem]
    assert check.problem == "patch 0 is a JPEG of 444 colors, and the store says 420"


@pytest.mark.parametrize(
    ("kind", "expected"), [("png", "444"), ("444", "444"), ("420", "420"), ("mixed", "444")]
)
def test_imports_follow_their_images(tmp_path: Path, kind: str, expected: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = Image.fromarray(draw_tissue(64, 64, kind="benign", glass=0.0))
    for name in ("a", "b"):
        if kind == "png" or (kind == "mixed" and name == "a"):
            pixels.save(folder / f"{name}.png")
        else:
            pixels.save(folder / f"{name}.jpg", subsampling="4:4:4" if kind == "444" else "4:2:0")
    result = import_images(folder, tmp_path / "o", min_tissue=0, group_regex="[.]")
    (path,) = result.stores
    with open_store(path) as store:
        assert {_by_pillow(stream) for stream in store.encoded(range(len(store)))} == {expected}
        assert store.meta.subsampling == expected
    assert result.psnr is not None and result.psnr > 25 and result.bytes == path.stat().st_size
    assert verify_store(path).sound
    again = import_images(folder, tmp_path / "o", min_tissue=0, group_regex="[.]")
    assert again.skipped == 1 and again.psnr == result.psnr
    assert ImportOptions().subsampling == "auto"
