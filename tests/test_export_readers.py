"""Exports as the other program reads them: readers written from what is published of each program's rules."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from patch_stores import patch_meta, small_store
from PIL import Image
from torchvision.datasets import ImageFolder

from wsitool.base.tables import read_table
from wsitool.curate.export.run import export_stores
from wsitool.slides.coordinates import read_coordinates
from wsitool.slides.spec import TileSpec
from wsitool.store.attributes import magnifications
from wsitool.store.collection import open_collection
from wsitool.store.opening import open_store
from wsitool.testing import synthetic_slide
from wsitool.tiling.run import tile_slide

Pixels = NDArray[np.uint8]


def _as_trident(slide: openslide.OpenSlide, coords: h5py.Dataset) -> Iterator[Pixels]:
    """The patches TRIDENT's patcher reads: both magnifications become um/px by 10 over them; their ratio
    times the patch size, rounded, is the side at level 0, which is brought to the patch size."""
    attributes = coords.attrs
    source, target = 10 / attributes["level0_magnification"], 10 / attributes["target_magnification"]
    size = int(attributes["patch_size"])
    side = round(size * (target / source))
    for x, y in coords[:].tolist():
        region = slide.read_region((x, y), 0, (side, side)).convert("RGB")
        yield np.asarray(region.resize((size, size), Image.Resampling.BOX))


def _decibels(one: Pixels, other: Pixels) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("objective", [True, False])
@pytest.mark.parametrize("mpp", [0.75, 0.5, 1.1])
def test_trident_cuts_the_patches_that_are_stored(tmp_path: Path, mpp: float, objective: bool) -> None:
    path = synthetic_slide(
        tmp_path / "s.svs", size=(1400, 1000), glass=0.0, mpp=0.4990 if objective else None, levels=(1,)
    )
    default = None if objective else 0.4990
    done = tile_slide(
        path, tmp_path / "o", TileSpec(patch_size=224, mpp=mpp, codec="raw"), default_mpp=default
    )
    export_stores(done.store, tmp_path / "t", "trident")
    (exported,) = (tmp_path / "t").rglob("*_patches.h5")
    with openslide.OpenSlide(str(path)) as slide, open_store(done.store) as store:
        stored = store.read(range(len(store)))
        exact = store.meta.patch_size_level0 / store.meta.patch_size
        for file in (exported, Path(done.store)):  # a store itself is such a file too
            with h5py.File(file) as opened:
                coords = opened["coords"]
                ratio = coords.attrs["level0_magnification"] / coords.attrs["target_magnification"]
                assert ratio == pytest.approx(exact, rel=1e-12)
                read = list(_as_trident(slide, coords))
            assert min(_decibels(one, other) for one, other in zip(read, stored, strict=True)) > 25
    folder = exported.parent.parent.name
    assert re.fullmatch(r"[\d.]{1,5}x_224px_0px_overlap", folder), folder


def test_the_ratio_is_exact_whatever_the_numbers() -> None:
    """TRIDENT's rounding gives the side that the store's own gives, whatever is stated."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        size, factor = int(rng.integers(8, 1024)), float(rng.uniform(0.9, 40))
        power = None if rng.random() < 0.5 else float(rng.choice([5, 10, 20, 40, 40.3]))
        mpp = float(rng.uniform(0.05, 5))
        meta = replace(
            patch_meta("s", size, 1),
            patch_size_level0=size * factor,
            mpp_level0=mpp,
            level0_magnification=power,
        )
        found = magnifications(meta)
        assert found is not None
        assert round(size * ((10 / found[1]) / (10 / found[0]))) == round(size * factor)
    assert magnifications(replace(meta, mpp_level0=None, level0_magnification=None)) is None


def test_clam_reads_the_patches_that_are_stored(tmp_path: Path) -> None:
    """CLAM: `wsi.read_region(coord, patch_level, (patch_size, patch_size))`, then its own resize."""
    path = synthetic_slide(tmp_path / "s.svs", size=(1400, 1000), glass=0.0, mpp=0.499, levels=(1,))
    done = tile_slide(path, tmp_path / "o", TileSpec(patch_size=224, mpp=0.75, codec="raw"))
    export_stores(done.store, tmp_path / "c", "clam")
    with (
        h5py.File(tmp_path / "c" / "patches" / "s.h5") as file,
        open_store(done.store) as store,
        openslide.OpenSlide(str(path)) as slide,
    ):
        coords = file["coords"]
        level, side = coords.attrs["patch_level"], coords.attrs["patch_size"]
        assert coords.dtype.kind == "i" and np.issubdtype(side.dtype, np.integer)
        for row, stored in enumerate(store.read(range(len(store)))):
            read = slide.read_region(coords[row], level, (side, side)).convert("RGB")
            assert _decibels(np.asarray(read.resize((224, 224), Image.Resampling.BOX)), stored) > 25


def _as_webdataset(tar: Path) -> list[dict[str, Any]]:
    """Samples by the published rule: the key is all up to the first dot of a name's last part, the suffix the
    rest, in small letters; files of one key in a row are a sample; a suffix twice is an error."""
    samples: list[dict[str, Any]] = []
    with tarfile.open(tar, "r|*") as stream:
        for entry in stream:
            match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", entry.name)
            if not entry.isreg() or match is None or re.match(r"__[^/]*__($|/)", entry.name):
                continue
            key, suffix = match[1], match[2].lower()
            if not samples or samples[-1]["__key__"] != key:
                samples.append({"__key__": key})
            assert suffix not in samples[-1], f"{key} has {suffix} twice"
            file = stream.extractfile(entry)
            assert file is not None
            samples[-1][suffix] = file.read()
    return samples


KOREAN = "유방암조직검사슬라이드이천십구년삼월십오일제삼병동김교수님과제일차검체번호"


def test_webdataset_takes_long_korean_names_and_dots(tmp_path: Path) -> None:
    assert len(KOREAN) >= 36
    names = (KOREAN, "s.1.a", "s_1_a", "S.1.A", "__x__", "한" * 80)
    for name in names[:-1]:
        small_store(tmp_path / "in" / f"{name}.h5", ("a", "b"))
    small_store(tmp_path / "in" / f"{names[-1]}.zarr", ("a",))
    done = export_stores(tmp_path / "in", tmp_path / "out", "webdataset", shard_size=4)
    samples = [sample for name in done.files for sample in _as_webdataset(tmp_path / "out" / name)]
    assert len(samples) == done.patches == 2 * 5 + 1
    assert len({sample["__key__"].lower() for sample in samples}) == len(samples)
    slides = [json.loads(sample["json"])["slide"] for sample in samples]
    assert sorted(set(slides)) == sorted(names) and slides.count(KOREAN) == 2
    assert any(sample["__key__"].startswith(KOREAN) for sample in samples)
    for sample in samples:
        assert np.asarray(Image.open(io.BytesIO(sample["png"]))).shape == (16, 16, 3)


def _two_runs(folder: Path) -> Path:
    """Stores whose own numbering of the classes differs, as from several runs."""
    small_store(folder / "one.h5", ("dcis", "benign", None))
    small_store(folder / "three.h5", ("dcis",))
    small_store(folder / "two.h5", ("adh", "dcis"))
    return folder


def test_classes_have_one_number_in_all_stores(tmp_path: Path) -> None:
    stores = _two_runs(tmp_path / "in")
    collection = open_collection(stores)
    numbers = {name: number for number, name in enumerate(collection.classes)}
    assert sorted(numbers) == ["adh", "benign", "dcis"]
    for to in ("webdataset", "geojson"):
        export_stores(stores, tmp_path / to, to)  # type: ignore[arg-type]
        assert json.loads((tmp_path / to / "classes.json").read_text()) == numbers
    tars = sorted((tmp_path / "webdataset").glob("*.tar"))
    for sample in [sample for tar in tars for sample in _as_webdataset(tar)]:
        label = json.loads(sample["json"])["label"]
        assert ("cls" in sample) == (label is not None)
        assert label is None or int(sample["cls"]) == numbers[label]
    colors: dict[str, set[tuple[int, ...]]] = {}
    for path in (tmp_path / "geojson").glob("*.geojson"):
        for feature in json.loads(path.read_text())["features"]:
            found = feature["properties"].get("classification")
            if found:
                colors.setdefault(found["name"], set()).add(tuple(found["color"]))
    assert sorted(colors) == sorted(numbers) and all(len(found) == 1 for found in colors.values())
    assert len(set.union(*colors.values())) == 3


def test_imagefolder_has_no_class_of_what_has_none(tmp_path: Path) -> None:
    """Unlabelled patches beside labelled ones would be a class, a class without patches an error."""
    stores = _two_runs(tmp_path / "in")
    small_store(tmp_path / "in" / "empty.h5", ("dcis",), classes=("ADH/DCIS", "dcis", "none of them"))
    small_store(tmp_path / "in" / "slash.h5", ("ADH/DCIS", "ADH_DCIS"))
    done = export_stores(stores, tmp_path / "out", "imagefolder")
    dataset = ImageFolder(str(tmp_path / "out"))
    numbers = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert len(dataset) == done.patches == 8 and done.left_out == 1
    assert sorted(numbers) == ["ADH/DCIS", "ADH_DCIS", "adh", "benign", "dcis"]
    assert sorted(numbers.values()) == list(range(5)) and len(dataset.classes) == 5
    for name in ("adh", "benign", "dcis", "ADH_DCIS"):  # the last one keeps its name, "ADH/DCIS" is marked
        assert numbers[name] == dataset.class_to_idx[name]


def test_geojson_is_what_qupath_takes(tmp_path: Path) -> None:
    """Closed rings in level-0 pixels, finite numbers, measurements as the list every version reads."""
    small_store(tmp_path / "in" / "s.h5", ("a", None), patch_size_level0=23.4)
    export_stores(tmp_path / "in", tmp_path / "out", "geojson")
    text = (tmp_path / "out" / "s.geojson").read_text()
    collection = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    first, second = collection["features"]
    (ring,) = first["geometry"]["coordinates"]
    assert ring[0] == ring[-1] == [0, 0] and ring[2] == [23.4, 23.4] and len(ring) == 5
    assert first["type"] == "Feature" and first["properties"]["objectType"] == "tile"
    assert first["properties"]["classification"]["name"] == "a"
    assert "classification" not in second["properties"]
    assert first["properties"]["measurements"] == [{"name": "tissue", "value": 0.5}]


def test_hs2p_is_given_what_it_writes(tmp_path: Path) -> None:
    """By its page on artifacts: arrays by x and then y, numbers; positions come back."""
    path = synthetic_slide(tmp_path / "s.svs", size=(900, 700), glass=0.1, mpp=0.5, levels=(1,))
    done = tile_slide(path, tmp_path / "o", TileSpec(patch_size=64, mpp=1.0, stride=48))
    small_store(tmp_path / "o" / "no-mpp.h5", ("a",), mpp_level0=None, mpp_effective=None)
    result = export_stores(tmp_path / "o", tmp_path / "h", "hs2p")
    assert [name for name, _ in result.failed] == ["no-mpp.h5"] and "--default-mpp" in result.failed[0][1]
    (row,) = read_table(tmp_path / "h" / "process_list.csv", needs=("sample_id", "tiling_status")).rows
    npz, meta = (tmp_path / "h" / row[f"coordinates_{kind}_path"] for kind in ("npz", "meta"))
    with open_store(done.store) as store, np.load(npz) as arrays:
        places = np.stack([arrays["x"], arrays["y"]], axis=1)
        assert places.tolist() == sorted(store.coords.tolist())
        assert arrays["tile_index"].tolist() == list(range(len(store)))
        rows = {tuple(place): row for row, place in enumerate(store.coords.tolist())}
        order = [rows[tuple(place)] for place in places.tolist()]
        assert np.array_equal(arrays["tissue_fractions"], store.tissue[order])
        tiling = json.loads(meta.read_text())["tiling"]
        sides = [tiling[name] for name in ("requested_tile_size_px", "tile_size_lv0", "overlap")]
        assert sides == [64, 128, 0.25]
        back = read_coordinates(npz, "s")
        assert np.array_equal(back.coords, store.coords) and back.downsample == 2
    if importlib.util.find_spec("hs2p") is not None:
        from hs2p.artifacts import load_tiling_result

        loaded = load_tiling_result(npz, meta)
        assert loaded.num_tiles == len(places) and loaded.read_spacing_um == 0.5


def test_webdatasets_own_reader_finds_every_sample(tmp_path: Path) -> None:
    tariterators = pytest.importorskip("webdataset.tariterators")
    small_store(tmp_path / "in" / "s.h5", ("b", "a", "b"), classes=("a", "b"))
    done = export_stores(tmp_path / "in", tmp_path / "out", "webdataset", seed=3)
    samples = []
    for name in done.files:
        with (tmp_path / "out" / name).open("rb") as stream:
            opened = [{"url": name, "stream": stream}]
            samples += list(tariterators.group_by_keys(tariterators.tar_file_expander(opened)))
    with open_store(tmp_path / "in" / "s.h5") as store:
        read = {json.loads(sample["json"])["x"]: sample for sample in samples}
        assert len(read) == len(samples) == len(store) == 3
        for row, (x, _) in enumerate(store.coords.tolist()):
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(read[x]["png"]))), store[row])
            assert int(read[x]["cls"]) == (1, 0, 1)[row]
