"""Stores edited by another program at random: refused in a sentence, or read as they were."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hdf5_edits import replaced

from wsitool.curate.verifying import verify_store
from wsitool.errors import StoreError
from wsitool.store.opening import open_store

_COLUMNS = ("labels", "coords", "tissue", "sources", "candidates", "failures")


def _mutate(file: h5py.File, rng: random.Random) -> None:
    """One change of the kinds another program, or a careless user of h5py, makes."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    name = rng.choice(names)
    data = file[name]
    shape, dtype = data.shape, data.dtype
    attribute = rng.choice(list(file.attrs))
    values = [
        -1,
        0,
        2**62,
        1.5,
        float("nan"),
        "",
        "[",
        "null",
        '["a","a"]',
        b"\xff",
        [1, 2],
        h5py.Empty("f8"),
    ]
    kind = rng.randrange(9)
    if kind <= 2:
        file.attrs[attribute] = rng.choice(values)
    elif kind == 3:
        del file.attrs[attribute]
    elif kind == 4:
        del file[name]
    elif kind == 5:
        replaced(
            file, name, shape=rng.choice([(), (0,), (1,), (10**9,), shape[1:], (*shape, 1)]), dtype=dtype
        )
    elif kind == 6:
        replaced(file, name, shape=shape, dtype=rng.choice(["i1", ">i8", "f8", "f2", "S5", "c8", "?", "u8"]))
    elif kind == 7:
        replaced(file, name, data=data[:], chunks=True, compression=rng.choice([None, "gzip"]))
    elif dtype.kind in "iuf" and name != "patches":
        bad: list[Any] = [-1, -(2**62), 2**14, 255]
        bad += [float("nan"), float("inf")] if dtype.kind == "f" else []
        data[rng.randrange(shape[0])] = np.array(rng.choice(bad)).astype(dtype)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_edited_stores_are_refused_or_read_right(stores: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    refused = 0
    wanted = {codec: open_store(stores / f"{codec}.h5") for codec in ("raw", "jpeg")}
    for number in range(250):
        codec = rng.choice(("raw", "jpeg"))
        path = tmp_path / f"{number}.h5"
        shutil.copy(stores / f"{codec}.h5", path)
        with h5py.File(path, "r+") as file:
            _mutate(file, rng)
        try:
            with open_store(path) as store:
                pixels = store.read(range(len(store)))
                columns = {name: getattr(store, name) for name in _COLUMNS}
        except StoreError as error:
            refused += 1
            assert "\n" not in str(error)
            assert verify_store(path).verdict != "ok"
            continue
        if verify_store(path).verdict == "ok":
            right = wanted[codec]
            assert np.array_equal(pixels, right.read(range(len(right))))
            assert np.array_equal(columns["coords"], right.coords)
            for name in ("labels", "sources"):
                assert np.array_equal(columns[name], getattr(right, name))
            assert store.meta.group == right.meta.group and store.meta.mpp_effective == 0.5
        path.unlink()
    assert refused > 100
