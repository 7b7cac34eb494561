"""Stored patches against OpenSlide's pixels, tifffile's pixels, and slow transcriptions of the resampling."""

from __future__ import annotations

import itertools
from pathlib import Path

import h5py
import numpy as np
import openslide
import pytest
import simplejpeg
import tifffile
from numpy.typing import NDArray

from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing.synthetic import write_pyramid
from wsitool.tiling.run import tile_slide

_REAL = [
    ("CMU-1-Small-Region.svs", 0),
    ("breast_her2st_B4.tiff", 0),
    ("breast_her2st_B4.tiff", 1),
    ("breast_her2st_B4.tiff", 2),
    ("breast_her2st_B4.tiff", 3),
    ("breast_her2st_B4.tiff", 4),
    ("tcga-cr-7395-01a-01-ts1.svs", 0),
    ("tcga-cr-7395-01a-01-ts1.svs", 1),
]


def test_no_level_is_left_out(real_data: Path) -> None:
    for name in {name for name, _ in _REAL}:
        with openslide.OpenSlide(real_data / "slides" / name) as slide:
            assert sorted(level for other, level in _REAL if other == name) == list(range(slide.level_count))


def openslide_level(path: Path, level: int) -> NDArray[np.uint8]:
    """The whole level as OpenSlide shows it, read only at places where it does not interpolate.

    Pieces larger than 4096 px are cut by OpenSlide itself at places between pixels, hence the limit.
    """
    with openslide.OpenSlide(path) as slide:
        width, height = slide.level_dimensions[level]
        if level == 0:
            whole = np.empty((height, width, 3), np.uint8)
            for y, x in itertools.product(range(0, height, 2048), range(0, width, 2048)):
                size = (min(2048, width - x), min(2048, height - y))
                whole[y : y + size[1], x : x + size[0]] = np.asarray(slide.read_region((x, y), 0, size))[
                    ..., :3
                ]
            return whole
        size = (min(width, 4096), min(height, 4096))
        return np.asarray(slide.read_region((0, 0), level, size))[..., :3]


def tifffile_level(path: Path, level: int) -> NDArray[np.uint8]:
    with tifffile.TiffFile(path) as tiff:
        tiled = [page.aspage() for page in tiff.pages if page.aspage().is_tiled]
        pixels: NDArray[np.uint8] = tiled[level].asarray()
        return pixels


def whole_level(path: Path, level: int) -> NDArray[np.uint8]:
    """The whole level by tifffile, held against OpenSlide wherever that does not interpolate."""
    pixels = tifffile_level(path, level)
    shown = openslide_level(path, level)
    assert np.array_equal(pixels[: shown.shape[0], : shown.shape[1]], shown)
    return pixels


@pytest.mark.parametrize(
    ("name", "level"),
    [
        # The whole of it takes long, and `test_native_patches...` reads it too.
        pytest.param(*each, marks=pytest.mark.slow) if each == ("breast_her2st_B4.tiff", 0) else each
        for each in _REAL
    ],
)
def test_raw_patches_equal_openslide(real_data: Path, tmp_path: Path, name: str, level: int) -> None:
    path = real_data / "slides" / name
    result = tile_slide(path, tmp_path, TileSpec(level=level, codec="raw", min_tissue=0))
    assert result.kept == result.candidates
    truth = whole_level(path, level)
    with open_store(result.store) as store, openslide.OpenSlide(path) as slide:
        factor = np.array(slide.dimensions) / np.array(slide.level_dimensions[level])
        corners = np.rint(store.coords / factor).astype(int)
        assert (corners % 224 == 0).all(), "level-0 corners must lead back to the grid of the level"
        for patch, (x, y) in zip(store.read(range(len(store))), corners, strict=True):
            assert np.array_equal(patch, truth[y : y + 224, x : x + 224])
        assert len(store) == (truth.shape[0] // 224) * (truth.shape[1] // 224) == result.kept
    assert result.decoded_tiles == result.needed_tiles > 0


@pytest.mark.parametrize(
    ("name", "level", "size", "format"),
    [
        ("CMU-1-Small-Region.svs", 0, 240, "hdf5"),
        ("CMU-1-Small-Region.svs", 0, 240, "zarr"),
        *(("breast_her2st_B4.tiff", level, 256, "hdf5") for level in range(5)),
        pytest.param("breast_her2st_B4.tiff", 0, 256, "zarr", marks=pytest.mark.slow),
        *(("breast_her2st_B4.tiff", level, 256, "zarr") for level in range(1, 5)),
    ],
)
def test_native_patches_decode_to_openslide_pixels(
    real_data: Path, tmp_path: Path, name: str, level: int, size: int, format: str
) -> None:
    path = real_data / "slides" / name
    spec = TileSpec(level=level, codec="native", patch_size=size, min_tissue=0)
    result = tile_slide(path, tmp_path, spec, format=format)  # type: ignore[arg-type]
    assert result.decoded_tiles == 0
    truth = whole_level(path, level)
    with open_store(result.store) as store, openslide.OpenSlide(path) as slide:
        factor = np.array(slide.dimensions) / np.array(slide.level_dimensions[level])
        corners = np.rint(store.coords / factor).astype(int).tolist()
        for patch, (x, y) in zip(store.read(range(len(store))), corners, strict=True):
            assert np.array_equal(patch, truth[y : y + size, x : x + size])


def test_native_streams_are_complete_jpegs_for_any_decoder(real_data: Path, tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    path = real_data / "slides" / "CMU-1-Small-Region.svs"  # RGB JPEG without Adobe marker
    result = tile_slide(path, tmp_path, TileSpec(level=0, codec="native", patch_size=240))
    with h5py.File(result.store) as file, openslide.OpenSlide(path) as slide:
        ends, (x, y) = file["encoded/offsets"][:2], file["coords"][0].tolist()
        stream = file["encoded/blob"][ends[0] : ends[1]].tobytes()
        truth = np.asarray(slide.read_region((x, y), 0, (240, 240)))[..., :3]
    assert np.array_equal(np.asarray(Image.open(BytesIO(stream))), truth)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("stride", [224, 100, 300])
def test_any_stride_and_thread_count_give_the_same_store(
    real_data: Path, tmp_path: Path, stride: int, threads: int
) -> None:
    path = real_data / "slides" / "CMU-1-Small-Region.svs"
    spec = TileSpec(level=0, codec="raw", stride=stride, min_tissue=0.2)
    result = tile_slide(path, tmp_path, spec, threads=threads)
    truth = openslide_level(path, 0)
    with open_store(result.store) as store:
        x, y = store.coords.T
        assert (np.lexsort((x, y)) == np.arange(len(store))).all()
        for patch, (x0, y0) in zip(store.read(range(len(store))), store.coords.tolist(), strict=True):
            assert np.array_equal(patch, truth[y0 : y0 + 224, x0 : x0 + 224])
    assert result.decoded_tiles == len(_tiles_under(store.coords, 224, 240))
    again = tile_slide(path, tmp_path / "again", spec, threads=3)
    assert again.content_hash == result.content_hash


def _tiles_under(coords: NDArray[np.int64], size: int, tile: int) -> set[tuple[int, int]]:
    return {
        (column, row)
        for x, y in coords.tolist()
        for column in range(x // tile, (x + size - 1) // tile + 1)
        for row in range(y // tile, (y + size - 1) // tile + 1)
    }


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.uint8]]:
    """A slide of one uncompressed level, 0.25 um/px, of coloured noise: every misplaced pixel shows."""
    pixels = np.random.default_rng(3).integers(0, 256, (1000, 1400, 3), np.uint8)
    path = tmp_path_factory.mktemp("noise") / "noise.svs"
    write_pyramid(path, pixels, mpp=0.25, compression="none", levels=(1,), tile=128)
    return path, pixels


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_whole_factors_are_block_means(
    noise: tuple[Path, NDArray[np.uint8]], tmp_path: Path, factor: int
) -> None:
    path, pixels = noise
    spec = TileSpec(mpp=0.25 * factor, patch_size=50, codec="raw", min_tissue=0)
    result = tile_slide(path, tmp_path, spec)
    height, width = (side // factor * factor for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    truth = blocks.mean(axis=(1, 3))
    with open_store(result.store) as store:
        assert len(store) == (width // factor // 50) * (height // factor // 50)
        for patch, (x, y) in zip(
            store.read(range(len(store))), (store.coords // factor).tolist(), strict=True
        ):
            assert np.abs(patch - truth[y : y + 50, x : x + 50]).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("mpp", [0.3, 0.437, 0.9])
def test_other_factors_are_area_means_without_drift(
    noise: tuple[Path, NDArray[np.uint8]], tmp_path: Path, mpp: float
) -> None:
    path, pixels = noise
    result = tile_slide(path, tmp_path, TileSpec(mpp=mpp, patch_size=64, codec="raw", min_tissue=0))
    factor = mpp / 0.25
    truth = _area_mean(_area_mean(pixels.astype(float), factor).transpose(1, 0, 2), factor).transpose(1, 0, 2)
    with open_store(result.store) as store:
        rows, columns = truth.shape[0] // 64, truth.shape[1] // 64
        assert len(store) == rows * columns
        for i, patch in enumerate(store.read(range(len(store)))):
            y, x = i // columns * 64, i % columns * 64
            assert np.abs(patch - truth[y : y + 64, x : x + 64]).max() <= 0.51
        assert np.abs(store.coords - _grid(rows, columns, 64) * factor).max() <= 0.5
        assert store.meta.mpp_effective == pytest.approx(mpp)


def _area_mean(pixels: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """Along axis 0 by the integral of the piecewise constant picture."""
    total = np.concatenate([np.zeros((1, *pixels.shape[1:])), np.cumsum(pixels, axis=0)])
    at = np.arange(int(len(pixels) / factor) + 1) * factor
    low = np.minimum(at.astype(int), len(pixels) - 1)
    integral = total[low] + (at - low)[:, None, None] * (total[low + 1] - total[low])
    return np.asarray(np.diff(integral, axis=0) / factor)


def _grid(rows: int, columns: int, step: int) -> NDArray[np.int64]:
    return np.array([(x * step, y * step) for y in range(rows) for x in range(columns)])


# Levels whose downsample is no whole number, and an mpp near them: slide, level, its mpp 0, mpp.
_BETWEEN = [
    ("tcga-cr-7395-01a-01-ts1.svs", 1, 0.25, 0.5001),  # the level itself: 2.0005
    ("tcga-cr-7395-01a-01-ts1.svs", 1, 0.25, 0.7),
    ("breast_her2st_B4.tiff", 2, 0.69, 3.6),  # 4.0010
    ("breast_her2st_B4.tiff", 3, 0.69, 5.521),  # 8.0015
    ("boxes.tiff", 2, 0.25, 1.004),  # 4.016
    ("boxes.tiff", 2, 0.25, 1.3),
    ("boxes.tiff", 3, 0.25, 2.0215),  # 8.086
]


@pytest.mark.parametrize(("name", "level", "mpp0", "mpp"), _BETWEEN)
def test_no_drift_across_levels_that_are_no_whole_factor(
    real_data: Path, tmp_path: Path, name: str, level: int, mpp0: float, mpp: float
) -> None:
    """The four corner patches show the level-0 pixels that their coordinates name, resampled."""
    path = real_data / "slides" / name
    size = 16 if name.startswith("boxes") else 128
    spec = TileSpec(mpp=mpp, patch_size=size, codec="raw", min_tissue=0)
    result = tile_slide(path, tmp_path, spec, default_mpp=mpp0)
    assert result.level == level
    pixels = tifffile_level(path, level).astype(float)
    ratio = np.array(tifffile_level(path, 0).shape[1::-1]) / np.array(pixels.shape[1::-1])
    with open_store(result.store) as store:
        rows = _corner_rows(store.coords)
        # On its own level a patch is P pixels of it, between levels P pixels of exactly `mpp`.
        factor = mpp / mpp0 / ratio if store.meta.mpp_effective == pytest.approx(mpp, 1e-9) else np.ones(2)
        side0 = size * factor * ratio
        for row, patch in zip(rows, store.read(rows), strict=True):
            place = np.rint(store.coords[row] / side0)
            assert np.abs(store.coords[row] - place * side0).max() <= 0.5, "level-0 coordinates drift"
            left, top = place * size * factor
            truth = _window(_window(pixels, top, factor[1], size).swapaxes(0, 1), left, factor[0], size)
            assert np.abs(patch - truth.swapaxes(0, 1)).max() <= 0.51


def _corner_rows(coords: NDArray[np.int64]) -> list[int]:
    (left, top), (right, bottom) = coords.min(axis=0), coords.max(axis=0)
    corners = [(x, y) for y in (top, bottom) for x in (left, right)]
    return sorted({coords.tolist().index([x, y]) for x, y in corners})


def _window(pixels: NDArray[np.float64], start: float, factor: float, count: int) -> NDArray[np.float64]:
    """Area means of `count` steps of `factor` from `start` on along axis 0, pixel by pixel."""
    found = np.zeros((count, *pixels.shape[1:]))
    for i in range(count):
        low, high = start + i * factor, start + (i + 1) * factor
        for j in range(int(low), min(int(np.ceil(high - 1e-9)), len(pixels))):
            found[i] += pixels[j] * (min(high, j + 1) - max(low, j)) / factor
    return found


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_fast_shrink_is_the_decoders_and_close_to_the_mean(
    real_data: Path, tmp_path: Path, factor: int
) -> None:
    path = real_data / "slides" / "CMU-1-Small-Region.svs"
    spec = {"mpp": 0.499 * factor, "patch_size": 64, "codec": "raw", "min_tissue": 0.1}
    fast = tile_slide(path, tmp_path / "fast", TileSpec(**spec))  # type: ignore[arg-type]
    exact = tile_slide(path, tmp_path / "exact", TileSpec(**spec, resample="exact"))  # type: ignore[arg-type]
    assert (
        fast.resampling.startswith(f"decoder's 1/{factor}") and exact.resampling == f"{factor}x{factor} mean"
    )
    assert fast.decoded_tiles == fast.needed_tiles == exact.decoded_tiles
    with open_store(fast.store) as a, open_store(exact.store) as b:
        assert np.array_equal(a.coords, b.coords)
        error = a.read(range(len(a))).astype(float) - b.read(range(len(b)))
    assert 10 * np.log10(255**2 / (error**2).mean()) > 45


def test_fast_shrink_is_refused_where_it_is_far_from_the_mean(tmp_path: Path) -> None:
    # Saturated colour noise: the decoder clips after shrinking, the mean clips before.
    pixels = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (512, 512, 3))
    path = write_pyramid(tmp_path / "n.svs", pixels, mpp=0.25, levels=(1,), tile=256, quality=20)
    result = tile_slide(path, tmp_path, TileSpec(mpp=0.5, patch_size=64, codec="raw", min_tissue=0))
    assert result.resampling == "2x2 mean"


def test_jpeg_patches_are_encoded_once_from_exact_pixels(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "slides" / "CMU-1-Small-Region.svs"
    result = tile_slide(path, tmp_path, TileSpec(level=0, quality=80))
    with open_store(result.store) as store, openslide.OpenSlide(path) as slide:
        x, y = store.coords[7].tolist()
        truth = np.asarray(slide.read_region((x, y), 0, (224, 224)))[..., :3]
        encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(truth), quality=80, colorsubsampling="444")
        assert np.array_equal(store.read([7])[0], simplejpeg.decode_jpeg(encoded))


@pytest.mark.parametrize("reader", ["openslide", "tiff"])
def test_readers_agree(real_data: Path, tmp_path: Path, reader: str) -> None:
    path = real_data / "slides" / "CMU-1-Small-Region.svs"
    result = tile_slide(path, tmp_path, TileSpec(level=0, codec="raw"), reader=reader)
    with open_store(result.store) as store:
        truth = tifffile.imread(path)
        for patch, (x, y) in zip(store.read(range(len(store))), store.coords.tolist(), strict=True):
            assert np.array_equal(patch, truth[y : y + 224, x : x + 224])
    with open_slide(path, reader=reader) as slide:
        assert slide.info.reader == reader
