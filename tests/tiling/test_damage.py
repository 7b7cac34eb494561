"""Damaged slides: every one ends in a complete store or one sentence, and no stored pixel is wrong."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from wsitool.base import direct_io as direct
from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing.synthetic import synthetic_slide
from wsitool.tiling.results import SlideResult
from wsitool.tiling.run import tile_slide, tile_slides

_SPEC = TileSpec(level=0, codec="raw", patch_size=64, min_tissue=0)


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    signal.alarm(240)
    yield
    signal.alarm(0)


def check_result(result: SlideResult, clean: NDArray[np.uint8]) -> None:
    """A failed slide has one sentence; of the others every patch is as in OpenSlide or in the clean file."""
    if result.failed:
        assert result.reason and "\n" not in result.reason and "Traceback" not in result.reason
        assert not result.store
        return
    with open_store(result.store) as store:
        assert len(store) == result.kept == result.counts["kept"] > 0
        assert len(store.failures) == result.unreadable == result.counts["unreadable"]
        assert all("cannot be read" in failure.reason for failure in store.failures)
        for patch, (x, y) in zip(store.read(range(len(store))), store.coords.tolist(), strict=True):
            if not np.array_equal(patch, clean[y : y + 64, x : x + 64]):
                assert np.array_equal(patch, _openslide_pixels(result.path, x, y)), (result.name, x, y)


def _openslide_pixels(path: str, x: int, y: int) -> NDArray[np.uint8]:
    # A damaged byte inside compressed pixels need not be detectable: then all decoders see the same.
    # OpenSlide refuses some files for a damaged tag that does not concern the pixels; tifffile judges those.
    try:
        with openslide.OpenSlide(path) as slide:
            return np.asarray(slide.read_region((x, y), 0, (64, 64)))[..., :3]
    except openslide.OpenSlideError:
        return _tifffile_pixels(path, x, y)


def _tifffile_pixels(path: str, x: int, y: int) -> NDArray[np.uint8]:
    """A patch of the first page, of which other tiles may be past reading."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0].aspage()
        side, columns = page.tilewidth, -(-page.imagewidth // page.tilewidth)
        canvas = np.zeros((page.imagelength + side, page.imagewidth + side, 3), np.uint8)
        for row in range(y // side, (y + 63) // side + 1):
            for column in range(x // side, (x + 63) // side + 1):
                index = row * columns + column
                tiff.filehandle.seek(page.dataoffsets[index])
                data = tiff.filehandle.read(page.databytecounts[index])
                tile, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
                assert tile is not None
                place = np.s_[row * side : row * side + shape[1], column * side : column * side + shape[2]]
                canvas[place] = tile[0, : shape[1], : shape[2]]
        return canvas[y : y + 64, x : x + 64]


@pytest.mark.parametrize("tenths", [(0, 4, 9), pytest.param(range(10), marks=pytest.mark.slow)], ids=len)
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs"])
def test_truncated_at_tenths(real_data: Path, tmp_path: Path, name: str, tenths: Sequence[int]) -> None:
    data = (real_data / "slides" / name).read_bytes()
    clean = tifffile.imread(real_data / "slides" / name)
    paths = []
    for tenth in tenths:
        paths.append(tmp_path / f"cut{tenth}.svs")
        paths[-1].write_bytes(data[: len(data) * tenth // 10])
    results = tile_slides(paths, tmp_path / "o", _SPEC).slides
    for result in results:
        check_result(result, clean)
    # Both files have their first directory after the pixels it describes.
    assert {result.status for result in results} == {"done", "failed"}


def test_truncated_behind_its_directory(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "slides" / "breast_her2st_B4.tiff"
    path = tmp_path / "cut.tiff"
    path.write_bytes(source.read_bytes()[:4_000_000])
    spec = TileSpec(level=0, codec="raw", patch_size=64, stride=640, min_tissue=0)
    result = tile_slide(path, tmp_path, spec)
    assert 0 < result.unreadable < result.candidates == result.kept + result.unreadable
    with open_store(result.store) as store, openslide.OpenSlide(source) as slide:
        assert all("the file ends before it does" in failure.reason for failure in store.failures)
        for patch, (x, y) in zip(store.read(range(len(store))), store.coords.tolist(), strict=True):
            assert np.array_equal(patch, np.asarray(slide.read_region((x, y), 0, (64, 64)))[..., :3])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small file per format."""
    folder = tmp_path_factory.mktemp("small")
    found = {
        kind: synthetic_slide(
            folder / f"{kind}.svs", size=(300, 260), tile=128, compression=kind, levels=(1,)
        )  # type: ignore[arg-type]
        for kind in ("jpeg", "jpeg2000", "none")
    }
    pixels = tifffile.imread(found["none"])
    found["deflate"] = folder / "deflate.tiff"
    tifffile.imwrite(found["deflate"], pixels, tile=(128, 128), compression="zlib", photometric="rgb")
    found["strips"] = folder / "strips.tif"
    tifffile.imwrite(found["strips"], pixels, rowsperstrip=50, compression="zlib", photometric="rgb")
    for suffix in ("png", "jpg"):
        found[suffix] = folder / f"picture.{suffix}"
        Image.fromarray(pixels).save(found[suffix])
    return found


@pytest.mark.parametrize("cases", [40, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["jpeg", "jpeg2000", "none", "deflate", "strips", "png", "jpg"])
def test_random_byte_flips(small: dict[str, Path], tmp_path: Path, kind: str, cases: int) -> None:
    source = small[kind]
    data = np.frombuffer(source.read_bytes(), np.uint8)
    rng = np.random.default_rng(11)
    paths = []
    for case in range(cases):
        damaged = data.copy()
        # Half of the cases hit the first kilobyte or the last, where headers and directories are.
        at = rng.integers(0, len(data), rng.integers(1, 6))
        if case % 2:
            at = rng.choice(
                [*range(min(1024, len(data))), *range(max(0, len(data) - 1024), len(data))], len(at)
            )
        damaged[at] ^= rng.integers(1, 256, len(at)).astype(np.uint8)
        paths.append(tmp_path / f"case{case}{source.suffix}")
        paths[-1].write_bytes(damaged.tobytes())
    results = tile_slides(paths, tmp_path / "o", _SPEC).slides
    assert len(results) == cases
    with open_slide(source) as slide:
        clean = slide.read_region(0, 0, 0, slide.info.width, slide.info.height)
    for result in results:
        if kind in ("jpeg", "jpeg2000", "none", "deflate"):
            check_result(result, clean) if result.reader != "image" else None
        else:
            assert result.failed == bool(not result.kept)
    assert not list((tmp_path / "o").glob(".*")), "nothing half-written"
    # Checksums cover every byte of a PNG: none of it is read past damage.
    assert {result.status for result in results} == ({"failed"} if kind == "png" else {"done", "failed"})


def test_an_empty_tile_costs_only_its_patches(tmp_path: Path) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(1024, 768), levels=(1,))
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
        sizes = list(tag.value)
    sizes[5] = 0  # column 1, row 1 of 4 x 3 tiles
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["TileByteCounts"].overwrite(sizes)
    result = tile_slide(path, tmp_path, TileSpec(level=0, patch_size=128, codec="raw", min_tissue=0))
    assert result.unreadable == 4 and result.kept == 8 * 6 - 4
    with open_store(result.store) as store:
        lost = {(failure.x0, failure.y0) for failure in store.failures}
        assert lost == {(x, y) for x in (256, 384) for y in (256, 384)}
        assert all("zero length" in failure.reason for failure in store.failures)
        assert not lost & set(map(tuple, store.coords.tolist()))
        reasons = np.array(store.candidates.reasons)[store.candidates.reason]
        assert {tuple(xy) for xy in store.candidates.coords[reasons == "unreadable"].tolist()} == lost
    assert "4 patches left out" in result.reason and "x 256, y 256" in result.reason
    native = tile_slide(path, tmp_path / "n", TileSpec(level=0, patch_size=256, codec="native", min_tissue=0))
    assert native.unreadable == 1
    given_up = tile_slides(
        [path], tmp_path / "m", TileSpec(level=0, patch_size=128, min_tissue=0), max_failures=3
    ).slides[0]
    assert given_up.failed and "--max-failures" in given_up.reason


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("broken.svs", {}, "No reader opens"),
        ("unopenable.tiff", {}, "compression 52479 is unknown"),
        ("unreadable.svs", {"patch_size": 16}, "cannot be read"),
        ("kidney-48-5.tif", {"min_tissue": 0.99}, "low tissue .needs tissue of at least 0.99, the best has"),
        ("small.svs", {}, "does not fit into 'small', which is 16x16 px"),
        ("tcga-cr-7395-01a-01-ts1.svs", {"level": None, "mpp": 0.5}, "--default-mpp"),
        ("CMU-1-Small-Region.svs", {"level": 4}, "has 1 level"),
        ("CMU-1-Small-Region.svs", {"level": None, "mpp": 0.25}, "at its finest, coarser than asked"),
        ("tcga-cr-7395-01a-01-ts1.svs", {"codec": "native"}, "needs JPEG tiles"),
        ("CMU-1-Small-Region.svs", {"codec": "native"}, "take --patch-size 240"),
    ],
)
def test_the_sentence_for(
    real_data: Path, tmp_path: Path, name: str, options: dict[str, object], message: str
) -> None:
    spec = TileSpec(**{"level": 0, **options})  # type: ignore[arg-type]
    result = tile_slides([real_data / "slides" / name], tmp_path, spec).slides[0]
    assert result.failed
    assert re.search(message, result.reason), result.reason
    assert "\n" not in result.reason
    assert not list(tmp_path.glob("*.h5")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("format", ["hdf5", "zarr"])
def test_a_full_tmpfs_leaves_nothing_and_says_so(tmp_path: Path, format: str) -> None:
    slide = synthetic_slide(tmp_path / "s.svs", size=(1024, 1024))
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs takes root's rights")
    try:
        spec = TileSpec(level=0, codec="raw", min_tissue=0)
        result = tile_slides([slide], small / "o", spec, format=format).slides[0]  # type: ignore[arg-type]
        assert "The disk is full: free some space" in result.reason
        assert [path.name for path in (small / "o").iterdir()] == ["slides.csv"]
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("cached", [1 << 26, 0], ids=["cached", "direct"])
def test_a_full_disk_leaves_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: int
) -> None:
    monkeypatch.setattr(direct, "_CACHED", cached)
    # A limit on file size fails a write just as a full disk does, without a file system of its own.
    path = synthetic_slide(tmp_path / "s.svs", size=(1024, 1024))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        result = tile_slides([path], tmp_path / "o", TileSpec(level=0, codec="raw", min_tissue=0)).slides[0]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    assert result.failed and "\n" not in result.reason
    assert not list((tmp_path / "o").glob("*.h5")) and not list((tmp_path / "o").glob(".*.partial"))
