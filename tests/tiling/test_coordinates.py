"""Positions that others have chosen: CLAM's, TRIDENT's, hs2p's and tables, cut as they state."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openslide
import pytest
from numpy.typing import NDArray

from wsitool.curate.export.run import export_stores
from wsitool.curate.refiltering import refilter
from wsitool.curate.verifying import verify_store
from wsitool.errors import SlideError, StoreError, UsageError
from wsitool.slides.spec import QualityThresholds, TileSpec
from wsitool.store.opening import open_store
from wsitool.testing.synthetic import synthetic_slide
from wsitool.tiling.run import tile_slide, tile_slides

_RAW = TileSpec(codec="raw")
_ODD = np.array([[301, 77], [13, 77], [640, 405], [301, 78], [14, 79]])


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1023 x 771 px: the downsample of its second level is no whole number."""
    return synthetic_slide(tmp_path_factory.mktemp("slides") / "s1.svs", size=(1023, 771), seed=3)


def write(path: Path, coords: Any, **attributes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("coords", data=coords)
        dataset.attrs.update(attributes)
    return path


def cut(slide: Path, coords: Path, out: Path, spec: TileSpec = _RAW) -> tuple[NDArray[Any], NDArray[Any]]:
    tile_slide(slide, out, spec, coords=str(coords))
    with open_store(out / f"{slide.stem}.h5") as store:
        return store.coords, store.read(range(len(store)))


def in_order(coords: NDArray[Any]) -> NDArray[Any]:
    return coords[np.lexsort((coords[:, 0], coords[:, 1]))]


def test_level_0_of_clam_is_what_openslide_reads(slide: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "s1.h5", _ODD, patch_size=96, patch_level=0)
    coords, patches = cut(slide, file, tmp_path / "out")
    assert (coords == in_order(_ODD)).all()
    with openslide.OpenSlide(str(slide)) as peer:
        for corner, patch in zip(coords.tolist(), patches, strict=True):
            assert (np.asarray(peer.read_region(corner, 0, (96, 96)))[..., :3] == patch).all()
    report = verify_store(tmp_path / "out" / "s1.h5", slide=slide)
    assert report.sound


def test_a_coarser_level_of_clam_is_cut_at_its_nearest_pixel(slide: Path, tmp_path: Path) -> None:
    # The last two lie in one row of that level, in the other order.
    corners = np.array([[9, 5], [402, 200], [130, 201], [270, 200]])
    file = write(tmp_path / "s1.h5", corners, patch_size=64, patch_level=1)
    coords, patches = cut(slide, file, tmp_path / "out")
    assert (coords == in_order(corners)).all()
    with openslide.OpenSlide(str(slide)) as peer:
        width, height = peer.level_dimensions[1]
        whole = np.asarray(peer.read_region((0, 0), 1, (width, height)))[..., :3]
    scale = np.array([width / 1023, height / 771])
    for corner, patch in zip(coords, patches, strict=True):
        x, y = np.rint(corner * scale).astype(int)
        assert (whole[y : y + 64, x : x + 64] == patch).all()
    assert verify_store(tmp_path / "out" / "s1.h5", slide=slide).sound


def test_trident_is_the_mean_of_the_pixels_it_names(slide: Path, tmp_path: Path) -> None:
    """Level-0 corners need not lie on the grid of 3 x 3 blocks: nothing is rounded."""
    folder = tmp_path / "20x_64px_0px_overlap"
    write(folder / "patches" / "s1_patches.h5", _ODD, patch_size=64, patch_size_level0=192, overlap=0)
    coords, patches = cut(slide, folder, tmp_path / "out")
    with openslide.OpenSlide(str(slide)) as peer:
        for corner, patch in zip(coords.tolist(), patches, strict=True):
            region = np.asarray(peer.read_region(corner, 0, (192, 192)))[..., :3].astype(np.float64)
            mean = region.reshape(64, 3, 64, 3, 3).mean(axis=(1, 3))
            assert np.abs(mean - patch).max() <= 0.5 + 1e-3
    assert verify_store(tmp_path / "out" / "s1.h5", slide=slide).sound


def test_hs2p_is_cut_as_trident(slide: Path, tmp_path: Path) -> None:
    trident = write(tmp_path / "t" / "s1.h5", _ODD, patch_size=64, patch_size_level0=150)
    tiles = tmp_path / "hs2p" / "tiles"
    tiles.mkdir(parents=True)
    np.savez(tiles / "s1.coordinates.npz", x=_ODD[:, 0], y=_ODD[:, 1], tile_index=np.arange(len(_ODD)))
    meta = {"tiling": {"requested_tile_size_px": 64, "tile_size_lv0": 150, "read_level": 0}}
    (tiles / "s1.coordinates.meta.json").write_text(json.dumps(meta))
    expected = cut(slide, trident, tmp_path / "one")
    for ours, theirs in zip(cut(slide, tmp_path / "hs2p", tmp_path / "two"), expected, strict=True):
        assert (ours == theirs).all()
    (tiles / "s1.coordinates.meta.json").unlink()
    with pytest.raises(SlideError, match="is not beside it"):
        cut(slide, tmp_path / "hs2p", tmp_path / "three")


@pytest.mark.parametrize("to", ["clam", "trident"])
def test_what_is_exported_comes_back(slide: Path, tmp_path: Path, to: str) -> None:
    tile_slide(slide, tmp_path / "a", TileSpec(codec="raw", patch_size=64, level=0))
    export_stores([tmp_path / "a" / "s1.h5"], tmp_path / "x", to=to)
    file = next((tmp_path / "x").rglob("s1*.h5"))
    # No limit is applied again: what was kept is kept.
    coords, patches = cut(slide, file, tmp_path / "b")
    with open_store(tmp_path / "a" / "s1.h5") as store:
        assert (coords == store.coords).all() and (patches == store.read(range(len(store)))).all()


def test_a_table_of_several_slides(slide: Path, tmp_path: Path) -> None:
    other = synthetic_slide(tmp_path / "s2.svs", size=(512, 512), seed=4)
    third = synthetic_slide(tmp_path / "s3.svs", size=(512, 512), seed=5)
    table = tmp_path / "places.csv"
    table.write_text("slide,x,y\ns1,10,20\ns1,301,77\ns1,10,20\ns2,5,6\ns2,500,6\ns2,-1,6\n")
    spec = TileSpec(patch_size=64, level=0, codec="raw", limits=QualityThresholds().limits)
    result = tile_slides([slide, other, third], tmp_path / "out", spec, coords=str(table), workers=1)
    assert [(one.status, one.kept) for one in result.slides] == [("done", 2), ("done", 1), ("failed", 0)]
    assert "1 as they are there twice" in result.slides[0].reason
    assert "2 as their patches reach over the slide's edge" in result.slides[1].reason
    assert "no row of the slide 's3'" in result.slides[2].reason
    again = tile_slides([slide, other], tmp_path / "out", spec, coords=str(table), workers=1)
    assert [one.status for one in again.slides] == ["skipped"] * 2
    table.write_text(table.read_text() + "s2,40,50\n")
    moved = tile_slides([slide, other], tmp_path / "out", spec, coords=str(table), workers=1)
    assert [one.status for one in moved.slides] == ["skipped", "failed"] and "coords" in moved.slides[
        1
    ].reason
    with pytest.raises(StoreError, match=r"coords '\w+' instead of ''"):
        tile_slide(slide, tmp_path / "out", replace(spec, min_tissue=0, limits=()))


def test_limits_come_afterwards(slide: Path, tmp_path: Path) -> None:
    table = tmp_path / "s1.csv"
    table.write_text("x,y\n" + "".join(f"{x},{y}\n" for y in range(0, 700, 64) for x in range(0, 950, 64)))
    spec = TileSpec(patch_size=64, level=0, codec="raw")
    done = tile_slide(slide, tmp_path / "out", spec, coords=str(table))
    assert done.kept == done.candidates == 165
    grid = tile_slide(slide, tmp_path / "grid", spec)
    assert refilter(done.store, {"min_tissue": 0.5}).after == grid.kept < 165
    with pytest.raises(StoreError, match="came from a file"):
        refilter(done.store, {"min_tissue": 0.0}, slide=slide)


@pytest.mark.parametrize(
    ("spec", "stated", "message"),
    [
        (TileSpec(mpp=0.5), {"patch_size": 64, "patch_level": 0}, "leave out --mpp"),
        (TileSpec(stride=65), {}, "leave out --stride"),
        (TileSpec(min_tissue=0.1), {}, "wsitool refilter"),
        (TileSpec(limits=QualityThresholds(max_pen=0.1).limits), {}, "wsitool refilter"),
    ],
)
def test_options_at_odds_with_the_file(
    slide: Path, tmp_path: Path, spec: TileSpec, stated: dict[str, Any], message: str
) -> None:
    file = write(tmp_path / "s1.h5", _ODD, **stated)
    with pytest.raises(UsageError, match=message):
        tile_slide(slide, tmp_path / "out", spec, coords=str(file))
    assert not list((tmp_path / "out").glob("*.h5"))


@pytest.mark.parametrize(
    ("coords", "stated", "message"),
    [
        (np.zeros((0, 2), int), {}, "holds no position"),
        (np.array([[0.5, 1]]), {}, "whole level-0 pixels"),
        (np.array([[np.nan, 1]]), {}, "whole level-0 pixels"),
        (np.array([1, 2, 3]), {}, "expected coords"),
        (np.array([[b"1", b"2"]]), {}, "expected coords"),
        (_ODD + 5000, {}, "of another slide or level"),
        (_ODD, {"patch_size": 0, "patch_level": 0}, "patch_size must be"),
        (_ODD, {"patch_size": 64.5, "patch_level": 0}, "patch_size must be"),
        (_ODD, {"patch_level": 0}, "has no 'patch_size'"),
        (_ODD, {"patch_size": 64, "patch_level": 7}, "level"),
        (_ODD, {"patch_size": 10**9, "patch_level": 0}, "which cannot be"),
        (_ODD, {"patch_size": 64, "patch_level": np.nan}, "patch_level must be"),
    ],
)
def test_positions_that_cannot_be(
    slide: Path, tmp_path: Path, coords: NDArray[Any], stated: dict[str, Any], message: str
) -> None:
    file = write(tmp_path / "s1.h5", coords, **stated)
    with pytest.raises(SlideError, match=message):
        tile_slide(slide, tmp_path / "out", TileSpec(patch_size=64) if not stated else _RAW, coords=str(file))


def test_one_file_of_another_size_stops_no_other_slide(slide: Path, tmp_path: Path) -> None:
    other = synthetic_slide(tmp_path / "s2.svs", size=(512, 512), seed=4)
    write(tmp_path / "c" / "s1.h5", _ODD, patch_size=64, patch_level=0)
    write(tmp_path / "c" / "s2.h5", _ODD[:2], patch_size=96, patch_size_level0=96)
    spec = TileSpec(patch_size=64)
    done = tile_slides([slide, other], tmp_path / "out", spec, coords=str(tmp_path / "c"), workers=1)
    assert [one.status for one in done.slides] == ["done", "failed"]
    assert "leave out --patch-size" in done.slides[1].reason


def test_links_out_of_a_file_are_not_followed(slide: Path, tmp_path: Path) -> None:
    write(tmp_path / "else.h5", _ODD, patch_size=64, patch_level=0)
    with h5py.File(tmp_path / "s1.h5", "w") as file:
        file["coords"] = h5py.ExternalLink("else.h5", "/coords")
    with pytest.raises(SlideError, match="no dataset 'coords'"):
        tile_slide(slide, tmp_path / "out", coords=str(tmp_path / "s1.h5"))


def test_files_that_are_not_there_or_not_of_one_slide(slide: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.h5").write_bytes(b"no HDF5")
    with pytest.raises(SlideError, match="cannot be used"):
        tile_slide(slide, tmp_path / "out", coords=str(tmp_path / "broken.h5"))
    with pytest.raises(UsageError, match="no file or folder"):
        tile_slide(slide, tmp_path / "out", coords=str(tmp_path / "absent.h5"))
    with pytest.raises(SlideError, match=r"expected s1\.h5 \(CLAM\)"):
        tile_slide(slide, tmp_path / "out", coords=str(tmp_path))
    one = write(tmp_path / "s1.h5", _ODD)
    with pytest.raises(UsageError, match="holds the positions of one slide, and there are 2"):
        tile_slides([slide, tmp_path / "s9.svs"], tmp_path / "out", coords=str(one))
    write(tmp_path / "patches" / "s1.h5", _ODD)
    with pytest.raises(SlideError, match="the one that is meant"):
        tile_slide(slide, tmp_path / "out", coords=str(tmp_path))


def test_native_tiles_only_where_positions_are_theirs(slide: Path, tmp_path: Path) -> None:
    spec = TileSpec(codec="native")
    fitting = np.array([[256, 0], [0, 256]])
    write(tmp_path / "a" / "s1.h5", fitting, patch_size=256, patch_level=0)
    assert tile_slide(slide, tmp_path / "o", spec, coords=str(tmp_path / "a")).kept == 2
    write(tmp_path / "b" / "s1.h5", fitting + 1, patch_size=256, patch_level=0)
    with pytest.raises(SlideError, match="--codec native"):
        tile_slide(slide, tmp_path / "p", spec, coords=str(tmp_path / "b"))
