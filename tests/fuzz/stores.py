"""Stores of both formats and codecs, damaged; `verify` may call sound only what reads as it was written."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from fuzz.cases import Case, Kind, Place, Ran
from fuzz.store_damage import DAMAGE
from numpy.typing import NDArray

from wsitool.errors import WsitoolError
from wsitool.store.opening import create_store, open_store
from wsitool.store.schema import Candidates, Codec, Rows, StoreMeta
from wsitool.testing.stores import example_meta, example_patches

__all__ = ["KIND"]

# Name, codec, and whether its patches come from several images.
_STORES: tuple[tuple[str, Codec, bool], ...] = (
    ("raw.h5", "raw", True),
    ("jpeg.h5", "jpeg", False),
    ("raw.zarr", "raw", False),
    ("jpeg.zarr", "jpeg", True),
)
_NUMBER, _SIZE = 23, 32
_TARGETS = ("clam", "trident", "geojson", "imagefolder", "webdataset")
# What decides leakage and scale, and so must not change unseen.
_MEANT = ("name", "group", "classes", "mpp_level0", "mpp_effective", "level0_width", "level0_height")


def build(folder: Path) -> None:
    for name, codec, imported in _STORES:
        np.save(folder / f"{name}.npy", _write(folder / name, codec, imported))


def _write(path: Path, codec: Codec, imported: bool) -> NDArray[np.uint8]:
    """A labelled store, some of whose patches a stricter limit drops; returns the pixels it holds."""
    patches = example_patches(_NUMBER, _SIZE)
    coords = np.stack([np.arange(_NUMBER) % 5, np.arange(_NUMBER) // 5], axis=1).astype(np.int64) * 2 * _SIZE
    tissue = np.linspace(0.5, 1, _NUMBER, dtype=np.float32)
    with create_store(path, example_meta(codec, size=_SIZE)) as writer:
        writer.append(
            Rows(
                patches=patches,
                coords=coords,
                tissue=tissue,
                labels=(np.arange(_NUMBER) % 4 - 1).astype(np.int16),
                sources=[f"bild-ä{row}" for row in range(_NUMBER)] if imported else None,
            )
        )
        candidates = Candidates(
            coords=np.concatenate([coords, [[640, 640]]]),
            tissue=np.append(tissue, np.float32(0.25)),
            reason=np.append(np.zeros(_NUMBER), 1).astype(np.uint8),
            reasons=("kept", "low tissue"),
            scores={"sharpness": np.linspace(1, 2, _NUMBER + 1, dtype=np.float32)},
        )
        writer.finish(candidates, counts={"kept": _NUMBER, "low tissue": 1})
    with open_store(path) as store:
        return store.read(range(_NUMBER))


def make(rng: np.random.Generator, number: int, bases: Path, place: Place) -> Case:
    base = bases / _STORES[number % len(_STORES)][0]
    path = place.inputs / "stores" / f"slide{base.suffix}"
    path.parent.mkdir()
    (shutil.copytree if base.is_dir() else shutil.copyfile)(base, path)
    clean, title = number < len(_STORES), "undamaged"
    if not clean:
        kinds = DAMAGE[base.suffix]
        title = kinds[int(rng.integers(len(kinds)))](rng, path)
    given = str(path if rng.random() < 0.5 else path.parent)
    target = "imagefolder" if clean else _TARGETS[int(rng.integers(len(_TARGETS)))]
    commands = [
        ["info", given],
        ["verify", given],
        ["export", given, "--to", target, "--out", str(place.out / target)],
        ["refilter", given, "--min-tissue", "0.7", "--dry-run"],
    ]
    if rng.random() < 0.5:
        aside = str(place.out / f"refiltered{base.suffix}")
        commands[-1] = ["refilter", given, "--min-tissue", "0.7", "--out", aside]
    if rng.random() < 0.15:
        network = ["--encoder", "random", "--backbone", "timm:test_resnet", "--device", "cpu"]
        commands.append(["embed", given, "--out", str(place.out / "features"), *network])
    check = partial(_check, base, path, clean)
    return Case(title=f"{base.name}: {title}", commands=commands, check=check)


def _check(base: Path, path: Path, clean: bool, ran: Sequence[Ran]) -> list[str]:
    if clean and any(one.code for one in ran):
        return [f"an undamaged store: {one.argv[0]} says {one.said}" for one in ran if one.code]
    verified = next(one for one in ran if one.argv[0] == "verify")
    if verified.code != 0:
        return []
    try:
        return [f"verify calls it sound, but {text}" for text in _differences(base, path)]
    except WsitoolError as error:
        return [f"verify calls it sound, but reading it raises {type(error).__name__}: {error}"]


def _differences(base: Path, path: Path) -> list[str]:
    true = np.load(base.with_name(f"{base.name}.npy"))
    with open_store(path) as store, open_store(base) as original:
        found = _meaning(store.meta), _meaning(original.meta)
        problems = [f"{name} is {found[0][name]!r}" for name in _MEANT if found[0][name] != found[1][name]]
        if len(store) != len(true) or not np.array_equal(store.read(range(len(store))), true):
            problems.append("its patches differ from those written")
        if not np.array_equal(store.coords, original.coords):
            problems.append("its coordinates differ from those written")
        if (store.labels is None) or not np.array_equal(store.labels, original.labels):
            problems.append("its labels differ from those written")
    return problems


def _meaning(meta: StoreMeta) -> dict[str, object]:
    return {name: getattr(meta, name) for name in _MEANT}


KIND = Kind(name="stores", build=build, make=make)
