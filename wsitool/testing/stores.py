"""Conformance checks of patch stores: every format and codec proves itself by the same ones.

`check_store(suffix, codec, folder)` runs them all; `STORE_CHECKS` lists them for a parametrised test. Each is
a function of (suffix, codec, empty folder) that raises AssertionError where a store breaks its contract.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.errors import CorruptStoreError, SchemaVersionError, StoreError, WsitoolError
from wsitool.store import jpeg as jpeg_codec
from wsitool.store.layout import Tally
from wsitool.store.opening import create_store, find_stores, open_store
from wsitool.store.reader import Reader, content_hash
from wsitool.store.schema import Candidates, Codec, Failure, Rows, StoreMeta

__all__ = ["STORE_CHECKS", "check_store", "example_meta", "example_patches", "write_example"]

Check = Callable[[str, Codec, Path], None]

_QUALITY = 90


def check_store(suffix: str, codec: Codec, folder: Path) -> None:
    """Run every check, each in its own subfolder of `folder`.

    `folder` must be there, without those subfolders. AssertionError of the first check that fails.
    """
    for check in STORE_CHECKS:
        subfolder = folder / check.__name__
        subfolder.mkdir()
        check(suffix, codec, subfolder)


def example_patches(number: int, size: int = 32, *, seed: int = 0) -> NDArray[np.uint8]:
    """(number, size, size, 3) uint8: smooth, all different, so that JPEG keeps them apart."""
    rng = np.random.default_rng(seed)
    # Bilinear between four random corners of each patch: smooth enough for JPEG, and no two alike.
    corners = rng.integers(0, 256, (number, 2, 2, 3)).astype(np.float64)
    ramp = np.linspace(0, 1, size)
    top = corners[:, None, 0, 0] * (1 - ramp[:, None]) + corners[:, None, 0, 1] * ramp[:, None]
    bottom = corners[:, None, 1, 0] * (1 - ramp[:, None]) + corners[:, None, 1, 1] * ramp[:, None]
    down = ramp[None, :, None, None]
    return (
        (top[:, None] * (1 - down) + bottom[:, None] * down).reshape(number, size, size, 3).astype(np.uint8)
    )


def example_meta(codec: Codec, *, size: int = 32, name: str = "slide", group: str = "patient") -> StoreMeta:
    """Attributes with every kind of value: text beyond ASCII, numbers, None, nested parameters."""
    return StoreMeta(
        name=name,
        group=group,
        source="slides/präparat.svs",
        fingerprint="0" * 64,
        level0_width=4000,
        level0_height=3000,
        patch_size=size,
        patch_size_level0=float(2 * size),
        stride=size,
        stride_level0=float(2 * size),
        level=0,
        mpp_level0=0.25,
        mpp_requested=0.5,
        mpp_effective=0.5,
        level0_magnification=40.0,
        target_magnification=None,
        codec=codec,
        quality=_QUALITY if codec == "jpeg" else None,
        reader="image",
        classes=("benign", "ADH", "DCIS"),
        params={"min_tissue": 0.5, "nested": {"list": [1, 2]}, "nothing": None},
    )


def write_example(
    path: Path,
    codec: Codec,
    number: int = 23,
    *,
    size: int = 32,
    batch: int = 7,
    seed: int = 0,
    name: str = "slide",
    group: str = "patient",
    labelled: bool = True,
    imported: bool = True,
) -> NDArray[np.uint8]:
    """Write a store of `number` patches in batches of `batch`; returns the pixels it should read back.

    A labelled one says of which image each patch is, unless it is not `imported`.
    """
    patches = example_patches(number, size, seed=seed)
    coords = _coords(number, size)
    tissue = np.linspace(0.5, 1, number, dtype=np.float32)
    # -1, 0, 1, 2 in turn: unlabelled rows are among them.
    labels = (np.arange(number) % 4 - 1).astype(np.int16)
    with create_store(path, example_meta(codec, size=size, name=name, group=group)) as writer:
        for first in range(0, number, batch):
            part = slice(first, first + batch)
            writer.append(
                Rows(
                    patches=patches[part],
                    coords=coords[part],
                    tissue=tissue[part],
                    labels=labels[part] if labelled else None,
                    sources=[f"bild-ä{row}" for row in range(number)[part]]
                    if labelled and imported
                    else None,
                )
            )
        writer.finish(_candidates(coords), counts={"kept": number, "low tissue": 1}, failures=_FAILURES)
    if codec == "raw":
        return patches
    return np.stack([jpeg_codec.decode(jpeg_codec.encode(patch, _QUALITY)) for patch in patches])


_FAILURES = (Failure(x0=5, y0=6, reason="Bogus marker length"),)


def _coords(number: int, size: int) -> NDArray[np.int64]:
    # Twenty to a row of the grid, hence in (y, x) order.
    return np.stack([np.arange(number) % 20, np.arange(number) // 20], axis=1).astype(np.int64) * size


def _candidates(coords: NDArray[np.int64]) -> Candidates:
    tissue = np.append(np.linspace(0.5, 1, len(coords), dtype=np.float32), np.float32(0.25))
    return Candidates(
        coords=np.concatenate([coords, [[7, 9]]]).astype(np.int64),
        tissue=tissue,
        reason=np.append(np.zeros(len(coords)), 1).astype(np.uint8),
        reasons=("kept", "low tissue"),
        scores={"sharpness": tissue * 2},
    )


def _raises(kind: type[WsitoolError], call: Callable[[], object]) -> None:
    try:
        call()
    except kind as error:
        text = str(error)
        # Every error is one line that ends in a full stop.
        assert text.endswith(".") and "\n" not in text, f"not one sentence: {text}"
        return
    raise AssertionError(f"expected {kind.__name__}, and nothing was raised")


def check_reads_what_was_written(suffix: str, codec: Codec, folder: Path) -> None:
    expected = write_example(folder / f"a{suffix}", codec)
    with open_store(folder / f"a{suffix}") as store:
        assert len(store) == len(expected)
        assert np.array_equal(store.read(range(len(store))), expected)
        # The last row, the first twice, and out of order.
        asked = [22, 0, 0, 7, 21, 3, 7]
        assert np.array_equal(store.read(asked), expected[asked]), "order and duplicates are as asked"
        assert store.read([]).shape == (0, 32, 32, 3)


def check_refuses_rows_that_are_not_there(suffix: str, codec: Codec, folder: Path) -> None:
    write_example(folder / f"a{suffix}", codec)
    with open_store(folder / f"a{suffix}") as store:
        for index in (-1, 23):
            try:
                store.read([0, index])
            except IndexError:
                continue
            raise AssertionError(f"index {index} of 23 was accepted")


def check_keeps_every_column(suffix: str, codec: Codec, folder: Path) -> None:
    write_example(folder / f"a{suffix}", codec)
    with open_store(folder / f"a{suffix}") as store:
        coords = _coords(23, 32)
        expected, candidates = _candidates(coords), store.candidates
        assert np.array_equal(store.coords, coords) and store.coords.dtype == np.int64
        assert np.array_equal(store.tissue, np.linspace(0.5, 1, 23, dtype=np.float32))
        assert store.labels is not None and store.labels.tolist() == [row % 4 - 1 for row in range(23)]
        assert store.sources is not None and store.sources.tolist() == [f"bild-ä{row}" for row in range(23)]
        assert np.array_equal(candidates.coords, expected.coords) and np.array_equal(
            candidates.reason, expected.reason
        )
        assert candidates.reasons == expected.reasons and list(candidates.scores) == ["sharpness"]
        assert np.array_equal(candidates.scores["sharpness"], expected.scores["sharpness"])
        assert store.failures == _FAILURES and store.counts == {"kept": 23, "low tissue": 1}
        meta = example_meta(codec)
        assert store.meta.wsitool_version
        assert all(
            getattr(store.meta, name) == getattr(meta, name)
            for name in meta.__dataclass_fields__
            if name != "wsitool_version"
        )


def check_does_without_optional_columns(suffix: str, codec: Codec, folder: Path) -> None:
    write_example(folder / f"a{suffix}", codec, labelled=False)
    with open_store(folder / f"a{suffix}") as store:
        assert store.labels is None and store.sources is None


def check_hash_is_of_the_content(suffix: str, codec: Codec, folder: Path) -> None:
    stores: list[Reader] = []
    for number, (batch, seed) in enumerate(((1, 0), (7, 0), (23, 0), (7, 1))):
        write_example(folder / f"{number}{suffix}", codec, batch=batch, seed=seed)
        stores.append(open_store(folder / f"{number}{suffix}"))
    hashes = [store.content_hash for store in stores]
    assert len(set(hashes[:3])) == 1, "the hash depends on the batching"
    assert hashes[3] != hashes[0], "the hash does not depend on the pixels"
    assert [content_hash(store) for store in stores] == hashes, "what is on disk hashes to something else"


def check_takes_encoded_patches(suffix: str, codec: Codec, folder: Path) -> None:
    if codec != "jpeg":
        return
    expected = write_example(folder / f"a{suffix}", codec, labelled=False)
    coords, patches = _coords(23, 32), example_patches(23)
    with create_store(folder / f"b{suffix}", example_meta(codec)) as writer:
        encoded = [jpeg_codec.encode(patch, _QUALITY) for patch in patches]
        tissue = np.linspace(0.5, 1, 23, dtype=np.float32)
        writer.append(Rows(patches=encoded, coords=coords, tissue=tissue))
        digest = writer.finish(_candidates(coords), counts={})
    with open_store(folder / f"a{suffix}") as one, open_store(folder / f"b{suffix}") as other:
        assert digest == one.content_hash == other.content_hash
        assert np.array_equal(other.read(range(23)), expected)
        assert other.encoded([4, 2]) == [encoded[4], encoded[2]]


def check_is_complete_or_not_there(suffix: str, codec: Codec, folder: Path) -> None:
    path = folder / f"a{suffix}"
    rows = Rows(patches=example_patches(1), coords=_coords(1, 32), tissue=np.ones(1, dtype=np.float32))

    def interrupted() -> None:
        with create_store(path, example_meta(codec)) as writer:
            writer.append(rows)
            assert not path.exists() and find_stores(folder) == [], "a store is visible before it is complete"
            raise StoreError("interrupted.")

    _raises(StoreError, interrupted)
    assert list(folder.iterdir()) == [], "an interrupted store left something behind"


def check_overwrites_only_when_asked(suffix: str, codec: Codec, folder: Path) -> None:
    path = folder / f"a{suffix}"
    write_example(path, codec)
    _raises(StoreError, lambda: create_store(path, example_meta(codec)))
    rows = Rows(patches=example_patches(2), coords=_coords(2, 32), tissue=np.ones(2, dtype=np.float32))
    with create_store(path, example_meta(codec), overwrite=True) as writer:
        writer.append(rows)
        writer.finish(_candidates(rows.coords), counts={})
    assert len(open_store(path)) == 2 and [entry.name for entry in folder.iterdir()] == [path.name]


def check_refuses_rows_that_do_not_fit(suffix: str, codec: Codec, folder: Path) -> None:
    ones = np.ones(2, dtype=np.float32)
    good = Rows(patches=example_patches(2), coords=_coords(2, 32), tissue=ones)
    with create_store(folder / f"a{suffix}", example_meta(codec)) as writer:
        writer.append(good)
        large = Rows(patches=example_patches(2, 64), coords=_coords(2, 64), tissue=ones)
        _raises(StoreError, lambda: writer.append(large))
        _raises(
            StoreError, lambda: writer.append(Rows(patches=good.patches, coords=_coords(3, 32), tissue=ones))
        )
        labels = np.zeros(2, dtype=np.int16)
        later = Rows(patches=good.patches, coords=good.coords, tissue=ones, labels=labels)
        _raises(StoreError, lambda: writer.append(later))


def check_serves_many_threads(suffix: str, codec: Codec, folder: Path) -> None:
    expected = write_example(folder / f"a{suffix}", codec)
    rng = np.random.default_rng(0)
    requests = [rng.integers(0, 23, 16) for _ in range(64)]
    with open_store(folder / f"a{suffix}") as store, ThreadPoolExecutor(8) as pool:
        for request, got in zip(requests, pool.map(store.read, requests), strict=True):
            assert np.array_equal(got, expected[request])


def check_travels_to_other_processes(suffix: str, codec: Codec, folder: Path) -> None:
    expected = write_example(folder / f"a{suffix}", codec)
    again = pickle.loads(pickle.dumps(open_store(folder / f"a{suffix}")))  # noqa: S301  # our own bytes
    assert np.array_equal(again.read([3]), expected[[3]])


def check_notices_another_schema(suffix: str, codec: Codec, folder: Path) -> None:
    path = folder / f"a{suffix}"
    write_example(path, codec)
    if suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file.attrs["schema_version"] = 99
    else:
        root = json.loads((path / "zarr.json").read_text())
        root["attributes"]["schema_version"] = 99
        (path / "zarr.json").write_text(json.dumps(root))
    _raises(SchemaVersionError, lambda: open_store(path))


def check_notices_truncation(suffix: str, codec: Codec, folder: Path) -> None:
    path = folder / f"a{suffix}"
    write_example(path, codec)
    # The HDF5 file itself, or the only shard of a zarr store.
    data = path if suffix == ".h5" else path / "patches" / "c" / "0" / "0" / "0" / "0"
    content = data.read_bytes()
    # Half: the index at the end is gone, and some patches.
    data.write_bytes(content[: len(content) // 2])
    _raises(CorruptStoreError, lambda: open_store(path))
    data.unlink()
    _raises(StoreError, lambda: open_store(path))


def check_notices_change_while_in_use(suffix: str, codec: Codec, folder: Path) -> None:
    path = folder / f"a{suffix}"
    write_example(path, codec)
    data = path if suffix == ".h5" else path / "patches" / "c" / "0" / "0" / "0" / "0"
    store = open_store(path)
    store.check()
    content = data.read_bytes()
    data.unlink()
    _raises(CorruptStoreError, store.check)
    _raises(CorruptStoreError, lambda: store.read([0]))
    # The same bytes in a new file: another inode, which is noticed as well.
    data.write_bytes(content)
    _raises(CorruptStoreError, store.check)


def check_notices_a_damaged_patch(suffix: str, codec: Codec, folder: Path) -> None:
    path = folder / f"a{suffix}"
    expected = write_example(path, codec)
    stored = open_store(path).encoded([5])[0]
    data = path if suffix == ".h5" else path / "patches" / "c" / "0" / "0" / "0" / "0"
    content = bytearray(data.read_bytes())
    at = content.find(stored)
    # Twenty zeros at the start of the patch: a JPEG header is destroyed.
    content[at : at + 20] = bytes(20)
    data.write_bytes(content)
    with open_store(path) as store:
        assert content_hash(store) != store.content_hash, "damage does not change the hash"
        if codec == "raw":  # any bytes are pixels: only the hash can tell
            return
        _raises(CorruptStoreError, lambda: store.read([4, 5]))
        tally, out = Tally(), np.zeros((3, 32, 32, 3), dtype=np.uint8)
        store.read_into([4, 5, 6], out, tally=tally)
        assert [row for row, _ in tally.bad] == [1], "the bad row is named, and only that"
        assert np.array_equal(out[[0, 2]], expected[[4, 6]]), "the good rows are read all the same"


STORE_CHECKS: tuple[Check, ...] = (
    check_reads_what_was_written,
    check_refuses_rows_that_are_not_there,
    check_keeps_every_column,
    check_does_without_optional_columns,
    check_hash_is_of_the_content,
    check_takes_encoded_patches,
    check_is_complete_or_not_there,
    check_overwrites_only_when_asked,
    check_refuses_rows_that_do_not_fit,
    check_serves_many_threads,
    check_travels_to_other_processes,
    check_notices_another_schema,
    check_notices_truncation,
    check_notices_change_while_in_use,
    check_notices_a_damaged_patch,
)
