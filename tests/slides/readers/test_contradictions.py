"""TIFFs whose tags contradict each other or the data: refused by every reader, or that tile unreadable."""

from __future__ import annotations

import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from tiff_edits import drop_tag, place_of_next, set_tag, set_values

from wsitool.errors import RefusedSlideError, RegionReadError, UnsupportedSlideError
from wsitool.slides.readers import READERS, open_slide
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing.synthetic import draw_tissue, synthetic_slide
from wsitool.tiling.run import tile_slide, tile_slides

_PIXELS = draw_tissue(300, 260, kind="benign", mpp=0.5, seed=3)


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    signal.alarm(120)
    yield
    signal.alarm(0)


def _write(path: Path, pixels: NDArray[np.generic] = _PIXELS, **options: object) -> Path:
    tifffile.imwrite(path, pixels, metadata=None, **{"photometric": "rgb"} | options)  # type: ignore[arg-type]
    return path


_TILED = {"tile": (128, 128), "compression": "lzw"}
_STRIPS = {"rowsperstrip": 52, "compression": "lzw"}


@pytest.mark.parametrize(
    ("options", "edit", "reason"),
    [
        (_STRIPS, lambda p: drop_tag(p, 277), "1 sample.* bits .8, 8, 8"),
        (_TILED, lambda p: drop_tag(p, 277), "1 sample.* bits .8, 8, 8"),
        (_TILED, lambda p: set_tag(p, 277, tag=65000), "not in order"),
        (_TILED, lambda p: set_tag(p, 277, value=4), "4 sample.* bits .8, 8, 8"),
        (_TILED, lambda p: set_tag(p, 277, value=0), "size is zero"),
        (_TILED, lambda p: set_tag(p, 262, value=1), "colours need 1"),
        (_TILED, lambda p: set_tag(p, 262, value=3), "colours need 1"),
        (_TILED, lambda p: set_tag(p, 262, value=6), "nothing says how they are subsampled"),
        (_TILED, lambda p: set_tag(p, 262, value=17), "none that there is"),
        (_TILED, lambda p: drop_tag(p, 262), "PhotometricInterpretation is missing"),
        (_TILED, lambda p: drop_tag(p, 258), "BitsPerSample is missing"),
        (_TILED, lambda p: set_tag(p, 258, count=2), "3 sample.* bits"),
        (_TILED, lambda p: set_values(p, 258, [8, 8, 9]), "bits .8, 8, 9"),
        (_TILED, lambda p: set_values(p, 258, [9, 9, 9]), "bits .9, 9, 9"),
        (_TILED, lambda p: set_tag(p, 284, value=2), "lists 9 tiles where its size makes 27"),
        (_TILED, lambda p: set_tag(p, 284, value=3), "planar configuration 3"),
        (_TILED, lambda p: set_tag(p, 256, value=700), "lists 9 tiles where its size makes 18"),
        (_TILED, lambda p: set_tag(p, 256, value=200), "lists 9 tiles where its size makes 6"),
        (_TILED, lambda p: set_tag(p, 257, value=0), "size is zero"),
        (_TILED, lambda p: set_tag(p, 322, value=64), "lists 9 tiles where its size makes 15"),
        (_TILED, lambda p: set_tag(p, 324, count=8), "lists 8 tiles"),
        (_TILED, lambda p: set_tag(p, 325, type=2), "tag 325 is damaged"),
        (_STRIPS, lambda p: set_tag(p, 278, value=100), "lists 5 strips where its size makes 3"),
        (_TILED | {"predictor": True}, lambda p: set_tag(p, 317, value=7), "predictor 7"),
        (_TILED | {"predictor": True}, lambda p: set_tag(p, 317, value=3), "predictor 3"),
        (_TILED | {"predictor": True}, lambda p: set_tag(p, 259, value=1), "compression 1, which has none"),
        ({"tile": (128, 128)}, lambda p: p.write_bytes(p.read_bytes()[:9]), "first directory is not there"),
        ({"tile": (128, 128)}, lambda p: p.write_bytes(p.read_bytes()[:6]), "cut off within its header"),
    ],
)
def test_contradictions_are_refused_by_every_reader(
    tmp_path: Path, options: dict[str, object], edit: Callable[[Path], None], reason: str
) -> None:
    path = _write(tmp_path / "s.tif", **options)
    with open_slide(path, reader="image") as slide:  # before the edit it is fine
        assert np.array_equal(slide.read_region(0, 0, 0, 300, 260), _PIXELS)
    edit(path)
    for reader in READERS:
        with pytest.raises(RefusedSlideError, match=reason):
            open_slide(path, reader=reader)
    result = tile_slides([path], tmp_path / "o", TileSpec(level=0)).slides[0]
    assert result.failed and "\n" not in result.reason and not list((tmp_path / "o").glob("*.h5"))


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (np.dstack([_PIXELS, _PIXELS[..., 0]]), {"photometric": "separated"}),
        (_PIXELS[..., :2], {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
    ],
)
def test_other_kinds_still_go_to_other_readers(
    tmp_path: Path, pixels: NDArray[np.generic], options: dict[str, object]
) -> None:
    """CMYK and grey with alpha do not contradict themselves: OpenSlide may have them."""
    path = _write(tmp_path / "s.tif", pixels, tile=(64, 64), **options)
    with pytest.raises(UnsupportedSlideError) as refusal:
        open_slide(path, reader="tiff")
    assert not isinstance(refusal.value, RefusedSlideError)
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        assert slide.info.reader == "openslide"
        shown = np.asarray(truth.read_region((0, 0), 0, (300, 260)))
        expected = np.where(shown[..., 3:] == 0, 255, shown[..., :3])
        assert np.array_equal(slide.read_region(0, 0, 0, 300, 260), expected)


@pytest.mark.parametrize(
    ("options", "edit"),
    [
        ({"compression": "zlib", "tile": (64, 64)}, lambda p: set_tag(p, 258, count=1, value=8)),
        ({"compression": "lzw", "tile": (64, 64)}, lambda p: set_tag(p, 322, value=80)),
        ({"compression": "jpeg", "tile": (64, 64)}, lambda p: set_tag(p, 323, value=63)),
        ({"rowsperstrip": 260}, lambda p: set_tag(p, 278, value=261)),
    ],
)
def test_data_that_contradict_the_tags_are_unreadable(
    tmp_path: Path, options: dict[str, object], edit: Callable[[Path], None]
) -> None:
    """What only the pixels show: never other pixels than the file's, whatever was edited."""
    path = _write(tmp_path / "s.tif", **options)
    with open_slide(path) as slide:
        clean = slide.read_region(0, 0, 0, 300, 260)
    edit(path)
    try:
        slide = open_slide(path)
    except RefusedSlideError:
        return
    with slide:
        tiles = slide.tiles(0)
        for row in range(-(-tiles.height // tiles.tile_height)):
            for column in range(-(-tiles.width // tiles.tile_width)):
                try:
                    tile = tiles.decode(column, row)
                except RegionReadError:
                    continue
                y, x = row * tiles.tile_height, column * tiles.tile_width
                wanted = clean[y : y + tiles.tile_height, x : x + tiles.tile_width]
                assert np.array_equal(tile[: len(wanted), : wanted.shape[1]], wanted)


def test_samples_lost_where_bits_say_nothing(tmp_path: Path) -> None:
    """One BitsPerSample for all samples is tolerated by libraries: the colours then tell, or the bytes."""
    path = _write(tmp_path / "s.tif", **_TILED)
    set_tag(path, 258, count=1, value=8)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_region(0, 0, 0, 300, 260), _PIXELS)
    drop_tag(path, 277)
    with pytest.raises(RefusedSlideError, match="colours need 3"):
        open_slide(path)
    set_tag(path, 262, value=1)  # now all tags agree on grey, and only the bytes are three times too many
    with open_slide(path) as slide, pytest.raises(RegionReadError, match="where the tags make 16384"):
        slide.read_region(0, 0, 0, 100, 100)


def test_plain_tiles_whose_offsets_were_hit(tmp_path: Path) -> None:
    path = _write(tmp_path / "s.tif", tile=(64, 64))
    with tifffile.TiffFile(path) as tiff:
        offsets = list(tiff.pages[0].dataoffsets)
    offsets[6] += 1
    set_values(path, 324, offsets)
    with open_slide(path) as slide:
        for column, row in ((1, 1), (2, 1)):
            with pytest.raises(RegionReadError, match="belong to something else"):
                slide.tiles(0).decode(column, row)
        assert np.array_equal(slide.tiles(0).decode(3, 1), _PIXELS[64:128, 192:256])
    offsets[6] = offsets[5]  # the same blank tile twice is how some writers save room
    set_values(path, 324, offsets)
    with open_slide(path) as slide:
        assert np.array_equal(slide.tiles(0).decode(1, 1), slide.tiles(0).decode(0, 1))


def _with_tile(path: Path, index: int, data: bytes) -> None:
    """Put `data` at the end of the file and make it one of the tiles."""
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = list(tiff.pages[0].dataoffsets), list(tiff.pages[0].databytecounts)
    offsets[index], counts[index] = path.stat().st_size, len(data)
    set_values(path, 324, offsets)
    set_values(path, 325, counts)
    with path.open("ab") as file:
        file.write(data)


def _jp2_claiming(side: int) -> bytes:
    data = bytearray(imagecodecs.jpeg2k_encode(_PIXELS[:128, :128], codecformat="jp2"))
    at = data.index(b"\xff\x4f\xff\x51") + 8
    struct.pack_into(">II", data, at, side, side)
    data[(at := data.index(b"ihdr") + 4) : at + 8] = struct.pack(">II", side, side)
    return bytes(data)


@pytest.mark.parametrize(
    ("compression", "tile"),
    [
        ("aperio_jp2000_rgb", imagecodecs.jpeg2k_encode(_PIXELS[:256, :256], codecformat="jp2")),
        ("aperio_jp2000_rgb", imagecodecs.jpeg2k_encode(_PIXELS[:256, :256], codecformat="j2k")),
        ("aperio_jp2000_rgb", imagecodecs.jpeg2k_encode(_PIXELS[:128, :128, 0], codecformat="jp2")),
        ("aperio_jp2000_rgb", _jp2_claiming(60_000)),
        ("jpeg", imagecodecs.jpeg8_encode(_PIXELS[:256, :256])),
        ("jpeg", imagecodecs.jpeg8_encode(_PIXELS[:120, :128])),
        ("jpeg", imagecodecs.jpeg8_encode(_PIXELS[:128, :128, 0].copy())),
        ("png", imagecodecs.png_encode(_PIXELS[:256, :256])),
        ("webp", imagecodecs.webp_encode(_PIXELS[:64, :64])),
        ("zlib", imagecodecs.zlib_encode(_PIXELS[:256, :256].tobytes())),
        ("zlib", imagecodecs.zlib_encode(_PIXELS[:127, :128].tobytes())),
        ("lzw", imagecodecs.lzw_encode(_PIXELS[:256, :256].tobytes())),
        ("zstd", imagecodecs.zstd_encode(bytes(10_000_000))),
    ],
)
def test_a_tile_of_another_size_costs_only_itself(tmp_path: Path, compression: str, tile: bytes) -> None:
    pixels = draw_tissue(640, 512, kind="benign", mpp=0.5, seed=4)
    path = _write(tmp_path / "s.tif", pixels, tile=(128, 128), compression=compression)
    with open_slide(path) as slide:
        clean = slide.read_region(0, 0, 0, 640, 512)
    _with_tile(path, 6, tile)
    result = tile_slide(path, tmp_path, TileSpec(level=0, patch_size=64, codec="raw", min_tissue=0))
    assert (result.unreadable, result.kept) == (4, 76) and "4 patches left out as unreadable" in result.reason
    with open_store(result.store) as store:
        lost = {(failure.x0, failure.y0) for failure in store.failures}
        assert lost == {(x, y) for x in (128, 192) for y in (128, 192)}
        for patch, (x, y) in zip(store.read(range(len(store))), store.coords.tolist(), strict=True):
            assert np.array_equal(patch, clean[y : y + 64, x : x + 64])
        assert store.note == result.reason  # so that a run again, its table lost, has as much to say


def test_subsampled_chroma_is_no_rgb(tmp_path: Path) -> None:
    """A flipped photometric tag would show YCbCr as RGB."""
    path = _write(tmp_path / "s.tif", tile=(128, 128), compression="jpeg")
    set_tag(path, 262, value=2)
    with open_slide(path) as slide, pytest.raises(RegionReadError, match="420 chroma"):
        slide.read_region(0, 0, 0, 100, 100)


def test_bioformats_lossy_jpeg2000_is_rgb(tmp_path: Path) -> None:
    path = _write(tmp_path / "s.tif", tile=(128, 128), compression=33004, compressionargs={"level": 0})
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_region(0, 0, 0, 300, 260), tifffile.imread(path))


@pytest.mark.parametrize("kind", ["self", "first", "sub-self"])
def test_directories_that_loop(tmp_path: Path, kind: str) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(300, 260), levels=(1, 2))
    data = bytearray(path.read_bytes())
    first, last = struct.unpack_from("<I", data, 4)[0], place_of_next(path, directory=1)
    (second,) = struct.unpack_from("<I", data, place_of_next(path))
    if kind == "sub-self":  # the second directory, which links to itself, becomes a SubIFD, too
        set_tag(path, 284, tag=330, type=4, value=second)
        data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, last, first if kind == "first" else second)
    path.write_bytes(data)
    for reader in READERS:
        with pytest.raises(RefusedSlideError, match="directories loop"):
            open_slide(path, reader=reader)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ifd-loop-cmu-last-to-first.svs", "its directories loop"),
        ("lzw-t277-gone.tif", "tags are not in order"),
        ("big-t256-val+1.tif", "lists 42 tiles where its size makes 48"),
        ("tile65536.tif", "WSITOOL_RAISE_LIMITS"),
        ("j2k-jp2-512.tif", "JPEG 2000 of 512x512 with 3 samples in a tile of 256x256"),
        ("j2k-jp2-siz.tif", "JPEG 2000 of 60000x60000"),
    ],
)
def test_the_damaged_cases(real_data: Path, tmp_path: Path, name: str, reason: str) -> None:
    path = real_data / "cases" / "damaged" / name
    result = tile_slides([path], tmp_path, TileSpec(level=0, min_tissue=0)).slides[0]
    assert result.failed and reason in result.reason, result.reason
    assert not list(tmp_path.glob("*.h5"))


def test_a_damaged_copy_of_each_real_slide_is_not_guessed_at(real_data: Path, tmp_path: Path) -> None:
    for name in ("CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs"):
        path = Path(shutil.copy(real_data / "slides" / name, tmp_path / name))
        path.chmod(0o644)
        set_tag(path, 256, value=5000)
        with pytest.raises(RefusedSlideError, match="where its size makes"):
            open_slide(path)
