"""A store is checked at opening; afterwards everything ends in a StoreError, or in what was written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
from hdf5_edits import replaced

from wsitool.curate.verifying import verify_store
from wsitool.errors import CorruptStoreError, NotAStoreError, StoreError
from wsitool.store import jpeg
from wsitool.store.opening import create_store, open_store
from wsitool.store.schema import Candidates, Rows
from wsitool.testing.stores import example_meta

# zarr-python warns of a column's folder whose metadata is gone
pytestmark = pytest.mark.filterwarnings("ignore:Object at")

COLUMNS = ("labels", "coords", "tissue", "sources", "candidates", "failures")


def _refused(path: Path, reason: str) -> None:
    with pytest.raises(CorruptStoreError, match=reason or ".") as raised:
        open_store(path)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


BAD_ATTRIBUTES: list[tuple[str, Any]] = [
    *(("patch_size", value) for value in (0, -8, 9, 2**40, 8.5, "8", None)),
    *(("mpp_effective", value) for value in (0.0, -0.5, float("nan"), float("inf"), "0.5")),
    *((name, float("nan")) for name in ("mpp_level0", "mpp_requested", "level0_magnification")),
    *((name, -1) for name in ("level", "level0_width", "level0_height", "stride", "quality", "patches")),
    *((name, 0.0) for name in ("patch_size_level0", "stride_level0")),
    *(("patches", value) for value in (0, 22, 24, 10**9, 2**62)),
    *(("classes", value) for value in ("[", '["a", "a"]', "[1]", '[""]', "{}", "null", '{"a": 1}', 5)),
    *(("counts", value) for value in ('{"kept": -1}', '{"kept": 22}', '{"kept": 23, "x": 5}', "[]", "NaN")),
    *(("params", value) for value in ("[]", '{"a": NaN}', "[" * 9999, '{"a": 1, "a": 2}')),
    *(("codec", value) for value in ("gif", "", 1)),
    *(("content_hash", value) for value in ("", "2:", "3:" + "0" * 64, "z" * 64)),
    *((name, None) for name in ("group", "name", "fingerprint", "schema_version", "counts", "reader")),
    *((name, 7) for name in ("group", "name", "reader", "source")),
    ("schema_version", "one"),
]


@pytest.mark.parametrize(("name", "value"), BAD_ATTRIBUTES, ids=lambda value: str(value)[:20])
def test_attributes_that_cannot_be(copy: Callable[[str], Path], name: str, value: Any) -> None:
    file, folder = copy("jpeg.h5"), copy("jpeg.zarr")
    with h5py.File(file, "r+") as store:
        del store.attrs[name]
        if value is not None:
            store.attrs[name] = value
    root = json.loads((folder / "zarr.json").read_text())
    root["attributes"] = {key: item for key, item in root["attributes"].items() if key != name}
    if value is not None:
        root["attributes"][name] = value
    (folder / "zarr.json").write_text(json.dumps(root))
    for path in (file, folder):
        _refused(path, "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_store_that_may_not_be_read_is_not_called_damaged(copy: Callable[[str], Path]) -> None:
    path = copy("raw.h5")
    path.chmod(0)
    with pytest.raises(StoreError, match="Permission denied") as raised:
        open_store(path)
    assert not isinstance(raised.value, CorruptStoreError)


def test_too_many_open_files_are_not_called_damage(
    copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy("raw.h5")

    def refuse(*_: Any) -> None:
        raise OSError(errno.EMFILE, "Unable to open file")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(StoreError, match="Too many open files") as raised:
        open_store(path)
    assert not isinstance(raised.value, CorruptStoreError)


def test_large_attributes_are_refused_unread(copy: Callable[[str], Path]) -> None:
    path = copy("raw.h5")
    with h5py.File(path, "r+", track_order=True) as file:
        del file.attrs["name"]
        file.attrs.create("name", b"x", dtype="S60000")
        file.attrs["group"] = np.zeros(1000)
    _refused(path, "")


BAD_DATASETS: dict[str, tuple[str, Callable[[h5py.File], None]]] = {
    "soft link": ("is a link", lambda f: (f.move("coords", "c"), _link(f, h5py.SoftLink("/c")))[1]),
    "external link": ("is a link", lambda f: _link(f, h5py.ExternalLink("/etc/passwd", "/coords"))),
    "external storage": (
        "stored in another file",
        lambda f: replaced(f, "coords", shape=(23, 2), dtype="i8", external=[("/etc/passwd", 0, 368)]),
    ),
    "virtual": ("rewritten by another program", lambda f: _virtual(f)),
    "gzip bomb": (
        "rewritten by another program",
        lambda f: replaced(f, "candidates/x", shape=(3 * 10**8,), dtype="i8", chunks=True, compression=9),
    ),
    "never written": (
        "bytes that the file does not have",
        lambda f: replaced(f, "candidates/x", shape=(3 * 10**8,), dtype="i8"),
    ),
    "sparse patches": (
        "is uint8 of shape",
        lambda f: replaced(
            f, "patches", shape=(10**9, 8, 8, 3), maxshape=(None, 8, 8, 3), dtype="u1", chunks=(1, 8, 8, 3)
        ),
    ),
    "other chunks": (
        "is uint8 of shape",
        lambda f: replaced(f, "patches", data=f["patches"][:], chunks=(4, 8, 8, 3)),
    ),
    "checksums": (
        "rewritten by another program",
        lambda f: replaced(f, "patches", data=f["patches"][:], chunks=(1, 8, 8, 3), fletcher32=True),
    ),
    "no coords": ("no column 'coords'", lambda f: f.__delitem__("coords")),
    "a group": ("no dataset 'tissue'", lambda f: (f.__delitem__("tissue"), f.create_group("tissue"))[0]),
    "rows": ("22 rows instead of 23", lambda f: replaced(f, "tissue", data=np.ones(22, "f4"))),
    "candidates": ("rows instead of", lambda f: replaced(f, "candidates/y", data=np.ones(2, int))),
    "kind": ("is float of shape", lambda f: replaced(f, "label", data=np.ones(23, "f4"))),
    "type": ("does not write", lambda f: replaced(f, "label", data=np.ones(23, "c16"))),
    "text": ("does not write", lambda f: replaced(f, "source", data=np.full(23, b"abc"))),
    "columns": ("is int of shape", lambda f: replaced(f, "coords", data=np.ones((23, 3), int))),
    "no reasons": ("distinct texts", lambda f: f["candidates/reason"].attrs.__delitem__("reasons")),
    "half failures": ("of its failures", lambda f: f.__delitem__("failures/reason")),
    "many scores": (
        "members",
        lambda f: [f.create_dataset(f"candidates/s{i}", data=np.ones(24, "f4")) for i in range(200)].clear(),
    ),
}


def _link(file: h5py.File, link: Any) -> None:
    if "coords" in file:
        del file["coords"]
    file["coords"] = link


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(23,), dtype="i2")
    layout[...] = h5py.VirtualSource("other.h5", "label", shape=(23,))
    del file["label"]
    file.create_virtual_dataset("label", layout)


@pytest.mark.parametrize("case", BAD_DATASETS)
def test_datasets_that_are_not_ours(copy: Callable[[str], Path], case: str) -> None:
    path = copy("raw.h5")
    reason, change = BAD_DATASETS[case]
    with h5py.File(path, "r+") as file:
        change(file)
    _refused(path, reason)


BAD_VALUES: list[tuple[str, Any]] = [
    ("coords", [-1, 0]),
    ("coords", [0, 3000]),
    ("coords", [2**40, 0]),
    ("tissue", np.nan),
    ("tissue", np.inf),
    ("tissue", 1.5),
    ("label", 3),
    ("label", -2),
    ("candidates/x", -5),
    ("candidates/reason", 2),
    ("candidates/tissue", -0.1),
    ("failures/coords", [4000, 0]),
]


@pytest.mark.parametrize(("column", "value"), BAD_VALUES, ids=str)
def test_values_are_checked_when_they_are_read(copy: Callable[[str], Path], column: str, value: Any) -> None:
    path = copy("raw.h5")
    with h5py.File(path, "r+") as file:
        file[column][0] = value
    name = {"label": "labels"}.get(column, column.partition("/")[0])
    with open_store(path) as store, pytest.raises(CorruptStoreError, match=column):
        getattr(store, name)
    assert verify_store(path).verdict == "DAMAGED"


def test_many_names_of_one_long_text_are_refused_unread(copy: Callable[[str], Path]) -> None:
    path = copy("raw.h5")
    with h5py.File(path, "r+") as file:
        file["source"][0] = "x" * 1_000_000
        place = file["source"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[place : place + 23 * 16] = data[place : place + 16] * 23  # 23 MB of text in a file of 1 MB
    path.write_bytes(data)
    with open_store(path) as store, pytest.raises(CorruptStoreError, match="longer than the file"):
        _ = store.sources


def _edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_zarr_folders_that_are_not_ours(copy: Callable[[str], Path]) -> None:
    path = copy("raw.zarr")
    column = path / "coords" / "zarr.json"
    sound = column.read_bytes()
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda array: array["codecs"].append({"name": "numcodecs.pickle"}),
        lambda array: array["codecs"].__setitem__(1, {"name": "gzip", "configuration": {"level": 5}}),
        lambda array: array["codecs"][0]["configuration"].update(endian="big"),
        lambda array: array.update(data_type="object"),
        lambda array: array.update(data_type="float16"),
        lambda array: array.update(shape=[3 * 10**8, 2]),
        lambda array: array.update(shape=[-1, 2]),
        lambda array: array.update(shape=[10**30, 2]),
        lambda array: array["chunk_grid"]["configuration"].update(chunk_shape=[1, 2]),
        lambda array: array["chunk_key_encoding"].update(name="../../v2"),
        lambda array: array.update(storage_transformers=[{"name": "x"}]),
        lambda array: array.pop("codecs"),
    ]
    for change in changes:
        _edit(column, change)
        _refused(path, "")
        column.write_bytes(sound)
    open_store(path)
    for inner in ("gzip", "../x"):
        _edit(
            path / "patches" / "zarr.json",
            lambda array, inner=inner: array["codecs"][0]["configuration"]["codecs"].append({"name": inner}),
        )
        _refused(path, "rewritten by another program")


@pytest.mark.parametrize("target", ["/etc/hostname", "/dev/zero", "outside"])
def test_zarr_links_out_of_the_folder_are_not_followed(copy: Callable[[str], Path], target: str) -> None:
    path = copy("raw.zarr")
    (path.parent / "outside").write_bytes(b"x")
    for place in ("coords/c/0/0", "coords/zarr.json", "patches/c/0/0/0/0", "zarr.json"):
        file = path / place
        data = file.read_bytes()
        file.unlink()
        file.symlink_to(path.parent / target)
        with pytest.raises(CorruptStoreError, match="link out of the store"):
            _ = open_store(path).coords
        file.unlink()
        file.write_bytes(data)
    (path / "coords" / "c" / "0" / "0").rename(path / "elsewhere")
    (path / "coords" / "c" / "0" / "0").symlink_to(path / "elsewhere")
    assert len(open_store(path).coords) == 23  # inside it is the user's own affair


def test_a_link_to_a_store_is_the_users_own(copy: Callable[[str], Path], tmp_path: Path) -> None:
    path, link = copy("raw.zarr"), tmp_path / "link.zarr"
    link.symlink_to(path, target_is_directory=True)
    with open_store(link) as linked, open_store(path) as store:
        assert np.array_equal(linked.read(range(len(store))), store.read(range(len(store))))
        assert linked.content_hash == store.content_hash
    (path / "coords" / "c" / "0" / "0").unlink()
    (path / "coords" / "c" / "0" / "0").symlink_to("/etc/hostname")
    with pytest.raises(CorruptStoreError, match="link out of the store"):
        _ = open_store(link).coords


def test_zarr_pipes_bombs_and_lost_chunks(copy: Callable[[str], Path]) -> None:
    path = copy("raw.zarr")
    chunk = path / "tissue" / "c" / "0"
    chunk.write_bytes(imagecodecs.zstd_encode(bytes(50_000_000)))
    with pytest.raises(CorruptStoreError, match="tissue"):
        _ = open_store(path).tissue
    chunk.unlink()
    with pytest.raises(CorruptStoreError, match="tissue"):  # not 23 zeros
        _ = open_store(path).tissue
    os.mkfifo(chunk)
    with pytest.raises(CorruptStoreError, match="no regular file"):
        _ = open_store(path).tissue
    shard = path / "patches" / "c" / "0" / "0" / "0" / "0"
    shard.unlink()
    os.mkfifo(shard)
    _refused(path, "no regular file")


def test_jpegs_of_another_size_are_refused(stores: Path, tmp_path: Path) -> None:
    patches = [jpeg.encode(np.zeros((16, 8, 3), np.uint8), 90)] * 2
    coords, ones = np.zeros((2, 2), np.int64), np.ones(2, np.float32)
    with create_store(tmp_path / "a.h5", example_meta("jpeg", size=8)) as writer:
        writer.append(Rows(patches=patches, coords=coords, tissue=ones))
        writer.finish(Candidates(coords=coords, tissue=ones, reason=np.zeros(2, np.uint8)), counts={})
    _refused(tmp_path / "a.h5", "8 x 16 px and not 8 x 8 px")


def test_foreign_files_are_called_what_they_are(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "clam.h5", "w") as file:
        file["coords"] = np.zeros((3, 2), int)
        file["coords"].attrs["patch_level"] = 0
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = 1
    (tmp_path / "ome.zarr").mkdir()
    (tmp_path / "ome.zarr" / "zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {"ome": {}}}'
    )
    (tmp_path / "v2.zarr").mkdir()
    (tmp_path / "v2.zarr" / ".zgroup").write_text("{}")
    words = {"clam.h5": "CLAM", "x.h5": "with a", "ome.zarr": "OME-Zarr", "v2.zarr": "version 2"}
    for name, word in words.items():
        with pytest.raises(NotAStoreError, match=word):
            open_store(tmp_path / name)
