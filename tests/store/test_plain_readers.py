"""The stores as others see them: plain h5py, zarr-python, tensorstore and imagecodecs, without wsitool."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import pytest
import zarr

from wsitool.store import hdf5 as hdf5_module
from wsitool.store import zarr as zarr_module
from wsitool.store.opening import create_store, open_store
from wsitool.testing.stores import write_example


def test_h5py_reads_raw_patches_and_attributes(tmp_path: Path) -> None:
    expected = write_example(tmp_path / "a.h5", "raw")
    with h5py.File(tmp_path / "a.h5") as file:
        patches = file["patches"]
        assert np.array_equal(patches[:], expected)
        assert patches.chunks == (1, 32, 32, 3)
        assert patches.compression is None
        assert file.attrs["name"] == "slide"
        assert file.attrs["mpp_effective"] == 0.5
        assert "target_magnification" not in file.attrs  # unknown, so absent
        assert json.loads(file.attrs["params"])["nested"] == {"list": [1, 2]}
        assert list(file["label"].attrs["classes"]) == ["benign", "ADH", "DCIS"]
        assert file["source"].asstr()[3] == "bild-ä3"


def test_coords_follow_tridents_convention(tmp_path: Path) -> None:
    write_example(tmp_path / "a.h5", "raw")
    with h5py.File(tmp_path / "a.h5") as file:
        coords = file["coords"]
        assert coords.shape == (23, 2)
        assert dict(coords.attrs) == {
            "patch_size": 32,
            "patch_size_level0": 64,
            "level0_magnification": 40.0,
            "target_magnification": 20.0,
            "overlap": 0,
            "name": "slide",
            "savetodir": str(tmp_path),
            "level0_width": 4000,
            "level0_height": 3000,
        }


def test_h5py_and_imagecodecs_read_jpeg_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # so small a chunk that patches lie across the border of two
    monkeypatch.setattr(hdf5_module, "_BLOB_CHUNK", 1000)
    expected = write_example(tmp_path / "a.h5", "jpeg")
    with h5py.File(tmp_path / "a.h5") as file:
        offsets, blob = file["encoded/offsets"][:], file["encoded/blob"]
        assert blob.chunks == (1000,)
        assert len(blob) == offsets[-1] > 5000
        assert file["encoded/offsets"].dtype == np.uint64
        decoded = [imagecodecs.jpeg8_decode(blob[a:b].tobytes()) for a, b in itertools.pairwise(offsets)]
    assert np.array_equal(np.stack(decoded), expected)
    assert np.array_equal(open_store(tmp_path / "a.h5").read(range(23)), expected)


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_zarr_python_reads_in_a_process_without_wsitool(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 32 * 32 * 3
    monkeypatch.setattr(zarr_module, "_SHARD_BYTES", 5 * size)  # five shards, the last one not full
    expected = write_example(tmp_path / "a.zarr", codec)  # type: ignore[arg-type]
    np.save(tmp_path / "expected.npy", expected)
    program = (
        "import sys, numpy as np, zarr\n"
        "root = zarr.open_group(sys.argv[1], mode='r')\n"
        "assert 'wsitool.store.zarr' not in sys.modules\n"
        "assert (root['patches'][:] == np.load(sys.argv[2])).all()\n"
        "assert root['patches'].shards == (5, 32, 32, 3), root['patches'].shards\n"
        "assert root['source'][3] == 'bild-ä3'\n"
        "assert root.attrs['name'] == 'slide'\n"
    )
    arguments = [str(tmp_path / "a.zarr"), str(tmp_path / "expected.npy")]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, timeout=120)
    store = open_store(tmp_path / "a.zarr")
    assert len(store._layout.files) == 5
    assert np.array_equal(store.read([22, 4, 5, 0]), expected[[22, 4, 5, 0]])


def test_no_thread_of_zarr_writes_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise AssertionError("after an error such a thread would go on")

    with monkeypatch.context() as patch:
        patch.setattr(zarr.storage.LocalStore, "__init__", fails)
        expected = write_example(tmp_path / "a.zarr", "raw")
    assert np.array_equal(open_store(tmp_path / "a.zarr").read(range(23)), expected)


def test_zarr_codec_encodes_what_others_write(tmp_path: Path) -> None:
    """Someone who writes with zarr-python itself gets JPEGs that our reader decodes."""
    expected = write_example(tmp_path / "a.zarr", "jpeg")
    array = zarr.open_group(tmp_path / "a.zarr", mode="r+")["patches"]
    array[:] = np.roll(expected, 1, axis=0)
    difference = open_store(tmp_path / "a.zarr").read(range(1, 23)).astype(int) - expected[:-1]
    assert np.abs(difference).mean() < 2  # encoded a second time


def test_tensorstore_reads_raw_shards(tmp_path: Path) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    expected = write_example(tmp_path / "a.zarr", "raw")
    kvstore = {"driver": "file", "path": str(tmp_path / "a.zarr" / "patches")}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True).result()
    assert np.array_equal(array.read().result(), expected)


def test_repacked_hdf5_is_indexed_anew(tmp_path: Path) -> None:
    """Tools that copy a file move its chunks: the stored offsets are then wrong, and noticed."""
    expected = write_example(tmp_path / "a.h5", "raw")
    with h5py.File(tmp_path / "a.h5") as source, h5py.File(tmp_path / "b.h5", "w") as copy:
        copy["before"] = np.zeros(100_000)
        for name in source:
            source.copy(name, copy)
        copy.attrs.update(source.attrs)
    assert np.array_equal(open_store(tmp_path / "b.h5").read(range(23)), expected)


def test_a_foreign_layout_is_refused_in_one_sentence(tmp_path: Path) -> None:
    expected = write_example(tmp_path / "a.h5", "raw")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["patches"]
        file.create_dataset("patches", data=expected, chunks=(4, 32, 32, 3), compression="gzip")
    with pytest.raises(Exception, match="rewritten by another program"):
        open_store(tmp_path / "a.h5")


def test_a_name_must_say_the_format(tmp_path: Path) -> None:
    from wsitool.testing.stores import example_meta

    with pytest.raises(Exception, match=r"ends in \.h5 or \.zarr, got 'a\.hdf5'"):
        create_store(tmp_path / "a.hdf5", example_meta("raw"))
    with pytest.raises(Exception, match="There is no patch store at"):
        open_store(tmp_path / "a.h5")
    (tmp_path / "x.h5").write_bytes(b"not HDF5")
    with pytest.raises(Exception, match="the HDF5 file cannot be read"):
        open_store(tmp_path / "x.h5")
