"""OME-Zarr images as ome-zarr-py writes them, and what is said of those that are no slide."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from wsitool.curate.describe import describe
from wsitool.curate.verifying import verify_store
from wsitool.errors import RefusedSlideError, RegionReadError, SlideError, UnsupportedSlideError
from wsitool.slides.readers import fingerprint, open_slide
from wsitool.slides.readers.zarr_chunks import local_chunks
from wsitool.slides.slide import BLANK_TILES, NOT_SQUARE
from wsitool.slides.slide_list import find_slides
from wsitool.slides.spec import TileSpec
from wsitool.testing.synthetic import draw_tissue
from wsitool.tiling.run import tile_slide

_RGB = draw_tissue(700, 520, kind="benign", mpp=0.5, seed=3)
_STEPS = (1, 2, 4)


def _write(
    path: Path,
    pixels: NDArray[Any] = _RGB,
    *,
    version: str = "0.5",
    axes: str = "cyx",
    unit: str | None = "micrometer",
    side: Sequence[float] = (0.5, 0.5),
    chunk: int = 128,
    **metadata: Any,
) -> Path:
    """`pixels` (h, w, c) as an image of three levels by ome-zarr-py; other axes have one place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ome_zarr.format import FormatV04, FormatV05
        from ome_zarr.writer import write_multiscale
    fmt = {"0.4": FormatV04, "0.5": FormatV05}[version]()
    kinds = {"t": "time", "c": "channel"}
    stated = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    for axis in stated:
        if axis["type"] == "space" and unit is not None:
            axis["unit"] = unit
    levels = [_ordered(pixels[::step, ::step], axes) for step in _STEPS]
    scales = [
        [
            {
                "type": "scale",
                "scale": [
                    {"y": side[1], "x": side[0]}.get(a, 1.0) * (step if a in "yx" else 1) for a in axes
                ],
            }
        ]
        for step in _STEPS
    ]
    group = zarr.open_group(str(path), mode="w", zarr_format=fmt.zarr_format)
    chunks = tuple(chunk if axis in "yx" else 1 for axis in axes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_multiscale(
            levels,
            group,
            fmt=fmt,
            axes=stated,
            coordinate_transformations=scales,
            storage_options={"chunks": chunks},
            **metadata,
        )
    return path


def _ordered(pixels: NDArray[Any], axes: str) -> NDArray[Any]:
    """(h, w, c) with its axes in the order of `axes`, those that it has not of length 1."""
    places = {"y": 0, "x": 1, "c": 2}
    pixels = pixels if "c" in axes else pixels[..., 0]
    pixels = pixels.transpose([places[axis] for axis in axes if axis in places])
    return np.expand_dims(pixels, tuple(i for i, axis in enumerate(axes) if axis not in places))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["cyx", "tczyx", "yxc"])
def test_pixels_levels_and_resolution_are_those_written(tmp_path: Path, version: str, axes: str) -> None:
    if axes == "yxc":  # the specification wants channels before space, and files with other orders are about
        pytest.importorskip("ome_zarr")
        path = _write(tmp_path / "s.ome.zarr", version=version)
        _reorder(path, version)
    else:
        path = _write(tmp_path / "s.ome.zarr", version=version, axes=axes)
    with open_slide(path) as slide:
        info = slide.info
        assert (info.reader, info.name, info.path, info.mpp) == ("ome-zarr", "s.ome", str(path), 0.5)
        assert [level.width for level in info.levels] == [700, 350, 175] and version in info.format
        for index, step in enumerate(_STEPS):
            level = info.levels[index]
            expected = _RGB[::step, ::step]
            assert np.array_equal(slide.read_region(0, 0, index, level.width, level.height), expected)
        assert np.array_equal(slide.read_region(301, 203, 0, 99, 57), _RGB[203:260, 301:400])
        slide.check_unchanged()


def _reorder(path: Path, version: str) -> None:
    """The image again with its channels last."""
    group = zarr.open_group(str(path), mode="a")
    for name in ("0", "1", "2"):
        old = group[name] if name in group else group[f"s{name}"]
        pixels = np.moveaxis(np.asarray(old[:]), 0, 2)
        key = old.name.strip("/")
        del group[key]
        group.create_array(key, data=pixels, chunks=(128, 128, 3))
    attributes: dict[str, Any] = dict(group.attrs)
    image = attributes["ome"] if version == "0.5" else attributes
    multiscale = image["multiscales"][0]
    multiscale["axes"] = multiscale["axes"][1:] + multiscale["axes"][:1]
    for dataset in multiscale["datasets"]:
        scale = dataset["coordinateTransformations"][0]["scale"]
        dataset["coordinateTransformations"][0]["scale"] = scale[1:] + scale[:1]
    group.attrs.put(attributes)


@pytest.mark.parametrize(
    ("unit", "side", "mpp", "sides"),
    [
        ("micrometer", (0.25, 0.25), 0.25, ""),
        ("millimeter", (0.0005, 0.0005), 0.5, ""),
        ("nanometer", (250, 252), 0.251, ""),
        (None, (1.0, 1.0), None, ""),
        ("micrometer", (0.5, 0.6), None, "0.5 x 0.6 um"),
    ],
)
def test_the_unit_of_an_axis_is_understood(
    tmp_path: Path, unit: str | None, side: tuple[float, float], mpp: float | None, sides: str
) -> None:
    with open_slide(_write(tmp_path / "s.zarr", unit=unit, side=side)) as slide:
        assert slide.info.mpp == (None if mpp is None else pytest.approx(mpp))
        assert slide.info.properties.get(NOT_SQUARE, "") == sides


def test_gray_is_gray_and_small_chunks_are_read_together(tmp_path: Path) -> None:
    with open_slide(_write(tmp_path / "g.zarr", _RGB[..., :1], chunk=50)) as slide:
        assert slide.tiles(0).tile_width == 300
        assert np.array_equal(slide.read_region(0, 0, 0, 700, 520), np.repeat(_RGB[..., :1], 3, axis=2))
    with open_slide(_write(tmp_path / "n.zarr", _RGB[..., :1], axes="yx")) as slide:
        assert np.array_equal(slide.read_region(0, 0, 0, 700, 520)[..., 2], _RGB[..., 0])


def test_other_channels_are_refused_by_name_and_mapped_where_that_is_asked_for(tmp_path: Path) -> None:
    five = np.concatenate([_RGB, 255 - _RGB[..., :2]], axis=2)
    path = _write(tmp_path / "f.zarr", five)
    with pytest.raises(RefusedSlideError, match=r"holds 5 channels and no colors.*say with --channels"):
        open_slide(path)
    with open_slide(path, channels=(4, 0, 2)) as slide:
        assert np.array_equal(slide.read_region(0, 0, 0, 700, 520), five[..., [4, 0, 2]])
    with pytest.raises(RefusedSlideError, match=r"has 5 channels, numbered from 0.*name some of 0 to 4"):
        open_slide(path, channels=(0, 1, 5))
    deep = _write(tmp_path / "d.zarr", _RGB.astype(np.uint16) << 8)
    with pytest.raises(RefusedSlideError, match="holds 3 channels"):
        open_slide(deep)
    with open_slide(deep, channels=(0, 1, 2)) as slide:
        assert np.array_equal(slide.read_region(0, 0, 0, 700, 520), _RGB)
    colors = {"channels": [{"color": color} for color in ("0000FF", "00FF00", "FF0000")]}
    stained = _write(tmp_path / "c.zarr")
    _edit(stained, omero=colors)
    with pytest.raises(RefusedSlideError, match="holds 3 channels"):
        open_slide(stained)


def _edit(path: Path, **changes: Any) -> None:
    """Change what the metadata of an image of version 0.5 say."""
    file = path / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"]["ome"] |= changes
    file.write_text(json.dumps(content))


def test_what_is_no_single_picture_is_refused(tmp_path: Path) -> None:
    stack = _write(tmp_path / "z.zarr", np.repeat(_RGB[..., :1], 4, axis=2), axes="cyx")
    _edit(
        stack,
        multiscales=[
            json.loads((stack / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
            | {"axes": ["z", "y", "x"]}
        ],
    )
    with pytest.raises(RefusedSlideError, match="holds 4 focal planes"):
        open_slide(stack)
    with pytest.raises(RefusedSlideError, match="samples of float32"):
        open_slide(_write(tmp_path / "f.zarr", _RGB.astype(np.float32)))
    plate = tmp_path / "p.zarr"
    zarr.open_group(str(plate), mode="w").attrs.put({"ome": {"version": "0.5", "plate": {}}})
    with pytest.raises(RefusedSlideError, match="is a plate of wells"):
        open_slide(plate)
    bare = tmp_path / "b.zarr"
    zarr.open_group(str(bare), mode="w")
    with pytest.raises(UnsupportedSlideError, match="not the metadata of an OME-Zarr image"):
        open_slide(bare)
    broken = _write(tmp_path / "x.zarr")
    _edit(broken, multiscales=[{"axes": ["y", "x"], "datasets": [{"path": "gone"}]}])
    with pytest.raises(RefusedSlideError, match="damaged OME-Zarr image"):
        open_slide(broken)


def test_of_several_images_the_largest_is_the_slide(tmp_path: Path) -> None:
    path = tmp_path / "b.zarr"
    zarr.open_group(str(path), mode="w").attrs.put({"ome": {"version": "0.5", "bioformats2raw.layout": 3}})
    _write(path / "0", _RGB[:100, :90])
    _write(path / "1")
    with open_slide(path) as slide:
        assert (slide.info.width, slide.info.height) == (700, 520)


def test_chunks_that_are_damaged_cost_their_tile_and_lost_ones_are_counted(tmp_path: Path) -> None:
    path = _write(tmp_path / "s.zarr", chunk=256)
    before = fingerprint(path)
    chunks = sorted(file for file in path.rglob("c/*/*/*") if file.is_file() and file.stat().st_size > 20_000)
    chunks[0].write_bytes(chunks[0].read_bytes()[:100])
    assert fingerprint(path) != before
    with open_slide(path) as slide:
        with pytest.raises(RegionReadError, match=r"tile column \d+, row \d+ of level 0 cannot be read"):
            slide.read_region(0, 0, 0, 700, 520)
        chunks[1].unlink()
        with pytest.raises(SlideError, match="changed while it was read"):
            slide.check_unchanged()
    with open_slide(path) as slide:
        assert slide.info.properties[BLANK_TILES] == "1 (of value 0)"


def test_the_commands_take_the_folder_for_a_slide(tmp_path: Path) -> None:
    path = _write(tmp_path / "slides" / "s.zarr")
    for named in (tmp_path / "slides", path):
        assert [slide.path for slide in find_slides(named)] == [str(path)]
    result = tile_slide(path, tmp_path / "o", TileSpec(patch_size=64, level=0, codec="raw", min_tissue=0))
    assert (result.kept, result.unreadable) == (80, 0) and result.decoded_tiles == result.needed_tiles
    store = tmp_path / "o" / "s.h5"
    for slide in (path, path.parent):
        assert verify_store(store, slide=slide).sound
    assert describe(path).facts["reader"] == "ome-zarr"


def test_behind_a_url(tmp_path: Path) -> None:
    import fsspec

    path = _write(tmp_path / "s.zarr")
    memory = fsspec.filesystem("memory")
    memory.put(str(path), "/remote/s.zarr", recursive=True)
    try:
        with open_slide("memory://remote/s.zarr") as slide:
            assert (slide.info.name, slide.info.mpp) == ("s", 0.5)
            assert slide.info.path == "memory://remote/s.zarr"
            assert np.array_equal(slide.read_region(0, 0, 1, 350, 260), _RGB[::2, ::2])
            slide.check_unchanged()
    finally:
        memory.rm("/remote", recursive=True)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize(
    ("version", "packing"),
    [
        *((version, packing) for version in (2, 3) for packing in ("zstd", "gzip", "blosc", "none")),
        (3, "sharded"),
        (2, "filtered"),
    ],
)
def test_chunks_read_here_are_zarrs(tmp_path: Path, version: int, kind: str, packing: str) -> None:
    """Every codec that images have, and one that is left to zarr, with a chunk that was not written."""
    import numcodecs
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    old = {"zstd": numcodecs.Zstd(), "gzip": numcodecs.GZip(), "blosc": numcodecs.Blosc()}
    new = {"zstd": ZstdCodec(), "gzip": GzipCodec(), "blosc": BloscCodec(cname="lz4")}
    options: dict[str, Any] = {"compressors": (old if version == 2 else new).get(packing)}
    if packing == "sharded":
        options = {"shards": (3, 256, 256)}
    if packing == "filtered":
        options |= {"filters": [numcodecs.Delta(dtype=kind)]}
    group = zarr.open_group(str(tmp_path), mode="w", zarr_format=version)  # type: ignore[arg-type]
    array = group.create_array(
        "a", shape=(3, 300, 500), chunks=(1, 128, 128), dtype=kind, fill_value=7, **options
    )
    array[:, :200, :] = np.moveaxis(_RGB[:200, :500].astype(kind), 2, 0)
    read = local_chunks(tmp_path, array)
    assert (read is None) == (packing == "filtered")
    if read is not None:
        expected = {"sharded": 2}.get(packing, 3 * 4)  # the lowest row: of chunks, of shards
        assert read.missing == expected
        for window in (
            (slice(0, 3), slice(0, 300), slice(0, 500)),
            (slice(1, 2), slice(100, 300), slice(130, 131)),
        ):
            assert np.array_equal(read.read(window), np.asarray(array[window]))
