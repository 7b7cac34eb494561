"""Stores in an S3 bucket are those of this machine to the byte, read in few requests, and never half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patch_stores import patch_folder

from wsitool.base.objects import upload
from wsitool.curate.describe import describe
from wsitool.errors import CorruptStoreError, StoreError
from wsitool.loading.loader import PatchLoader
from wsitool.store.collection import open_collection
from wsitool.store.opening import find_stores, open_store
from wsitool.store.reader import content_hash
from wsitool.store.schema import Codec
from wsitool.testing.stores import write_example

FORMS = [(".zarr", "raw"), (".zarr", "jpeg"), (".h5", "raw"), (".h5", "jpeg")]
LARGE = 400  # patches of 64 px: more than one block


def _uploaded(
    tmp_path: Path, suffix: str, codec: Codec, number: int = 60, size: int = 32
) -> tuple[Path, str]:
    path = tmp_path / f"a{suffix}"
    write_example(path, codec, number, size=size)
    upload(path, f"s3://bucket/stores/a{suffix}")
    return path, f"s3://bucket/stores/a{suffix}"


@pytest.mark.parametrize(("suffix", "codec"), FORMS)
def test_a_store_is_the_local_one(s3: Any, tmp_path: Path, suffix: str, codec: Codec) -> None:
    path, url = _uploaded(tmp_path, suffix, codec)
    far, near = open_store(url), open_store(path)
    assert str(far.path) == url and far.meta == near.meta and far.counts == near.counts
    assert content_hash(far) == far.content_hash == near.content_hash
    assert far.encoded([3, 0, 3]) == near.encoded([3, 0, 3])
    np.testing.assert_array_equal(far.read(range(60)), near.read(range(60)))
    assert far.sources is not None and far.failures == near.failures
    for name in ("coords", "tissue", "labels", "sources"):
        np.testing.assert_array_equal(getattr(far, name), getattr(near, name))
    np.testing.assert_array_equal(far.candidates.coords, near.candidates.coords)
    assert open_collection(url).fingerprint == open_collection(path).fingerprint
    assert describe(url).facts == describe(path).facts and describe(url).kind == "store"


@pytest.mark.parametrize(("suffix", "codec"), FORMS)
def test_requests_are_few_and_a_second_pass_has_none(
    s3: Any, tmp_path: Path, suffix: str, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = _uploaded(tmp_path, suffix, codec, LARGE, 64)
    rows = np.random.default_rng(0).permutation(LARGE)[:32]
    monkeypatch.setenv("WSITOOL_CACHE_SIZE", "100KB")  # less than the store: ranges as they are
    store = open_store(url)
    s3.asked.clear()
    store.read(rows)
    assert len(s3.asked) <= len(rows) + 1, "a request a patch, and whether the object is still the same"
    monkeypatch.delenv("WSITOOL_CACHE_SIZE")
    s3.asked.clear()
    store = open_store(url)
    assert len(s3.asked) <= 45
    s3.asked.clear()
    for _ in range(2):
        for first in range(0, LARGE, 50):
            store.read(range(first, first + 50))
    size = sum(info["size"] for info in s3.files.find(url, detail=True).values())
    assert len(s3.gets) <= size / 2**18 + 1
    s3.asked.clear()
    store.read(range(LARGE))
    assert not s3.asked


def test_a_second_epoch_asks_nothing(s3: Any, tmp_path: Path) -> None:
    for path in patch_folder(tmp_path / "kidney", stores=3).iterdir():
        upload(path, f"s3://bucket/kidney/{path.name}")
    far, near = open_collection("s3://bucket/kidney"), open_collection(tmp_path / "kidney")
    assert far.fingerprint == near.fingerprint and len(far.stores) == 3
    loaders = [PatchLoader(each, batch_size=8, seed=1) for each in (far, near)]
    for epoch in range(2):
        s3.asked.clear()
        for batch, other in zip(*loaders, strict=True):
            assert (batch.patches == other.patches).all() and (batch.indices == other.indices).all()
        assert epoch == 0 or not s3.asked


def test_what_is_there(s3: Any, tmp_path: Path) -> None:
    path, _ = _uploaded(tmp_path, ".zarr", "jpeg")
    _uploaded(tmp_path, ".h5", "raw")
    for file in path.rglob("*"):  # an upload that was killed
        if file.is_file() and file != path / "zarr.json":
            s3.files.put_file(str(file), f"bucket/stores/half.zarr/{file.relative_to(path)}")
    assert [str(store) for store in find_stores("s3://bucket/stores")] == [
        "s3://bucket/stores/a.h5",
        "s3://bucket/stores/a.zarr",
    ]
    assert not find_stores("s3://bucket/stores/half.zarr") and not find_stores("s3://bucket/nothing")
    with pytest.raises(StoreError):
        open_store("s3://bucket/stores/half.zarr")


@pytest.mark.parametrize("name", ["none.h5", "none.zarr"])
def test_what_is_not_there(s3: Any, name: str) -> None:
    with pytest.raises(StoreError, match=r"There is no patch store at s3://bucket/none"):
        open_store(f"s3://bucket/{name}")
    with pytest.raises(StoreError, match=r"s3://nobucket/none.* there is no such bucket"):
        open_store(f"s3://nobucket/{name}")


@pytest.mark.parametrize(("suffix", "codec"), FORMS[1:3])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (503, "after 4 tries"),
        (0, "after 4 tries"),
        (200, "cannot send parts of files, so download the file"),
        (403, "refuses access"),
    ],
)
def test_a_server_that_fails(
    s3: Any, tmp_path: Path, suffix: str, codec: Codec, fault: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSITOOL_CACHE_SIZE", "100KB")
    path, url = _uploaded(tmp_path, suffix, codec, LARGE, 64)
    store = open_store(url)
    s3.fault = lambda environ: fault if environ["REQUEST_METHOD"] == "GET" else None
    out = np.full((2, 64, 64, 3), 7, np.uint8)
    with pytest.raises(StoreError) as error:
        store.read_into([1, 300], out)
    text = str(error.value)
    assert text.startswith(url) and said in text and text.endswith(".") and "\n" not in text
    assert (out == 7).all()  # nothing of it
    failures = iter([503, 0])
    s3.fault = lambda environ: next(failures, None) if environ["REQUEST_METHOD"] == "GET" else None
    np.testing.assert_array_equal(store.read([1, 300]), open_store(path).read([1, 300]))


@pytest.mark.parametrize(("suffix", "codec"), FORMS[1:3])
def test_a_store_that_is_replaced_under_way(s3: Any, tmp_path: Path, suffix: str, codec: Codec) -> None:
    path, url = _uploaded(tmp_path, suffix, codec, LARGE, 64)
    store = open_store(url)
    write_example(tmp_path / f"b{suffix}", codec, LARGE, size=64, seed=5)
    upload(tmp_path / f"b{suffix}", url)
    near = open_store(path)
    for row in range(0, LARGE, 7):
        try:
            patch = store.read([row])
        except CorruptStoreError as error:
            assert "replaced or changed while it was in use" in str(error)
        else:
            np.testing.assert_array_equal(patch, near.read([row]))  # what was kept of the old one
    np.testing.assert_array_equal(open_store(url).read([5]), open_store(tmp_path / f"b{suffix}").read([5]))
