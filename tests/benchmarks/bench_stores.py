"""Random batches of 64 from stores: the readers against plain libraries on the same files.

python tests/benchmarks/bench_stores.py [--patches N]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray
from side_by_side import Claim, measure, peer_version, print_table, tissue_patches

from wsitool.store.opening import create_store, open_store
from wsitool.store.schema import Candidates, Codec, Rows
from wsitool.testing.stores import example_meta

__all__ = ["run", "write"]

_BATCH = 64
_CLAIMS = [
    Claim(ours="wsitool hdf5 raw", peer="bare preadv loop", factor=0.75),
    Claim(ours="wsitool hdf5 raw", peer="h5py d[sorted batch]", factor=100),
    Claim(ours="wsitool hdf5 raw", peer="h5py d[i] loop", factor=2),
    Claim(ours="wsitool zarr raw", peer="zarr-python default", factor=10),
    Claim(ours="wsitool zarr raw", peer="tensorstore, 1 thread", factor=1.5),
    Claim(ours="wsitool zarr raw", peer="tensorstore, its own threads", factor=1.5),
    Claim(ours="wsitool zarr raw, 2 threads", peer="tensorstore, its own threads", factor=1.5),
]


def write(path: Path, codec: Codec, patches: NDArray[np.uint8]) -> Path:
    """Write `patches` as a store."""
    number = len(patches)
    coords = np.zeros((number, 2), dtype=np.int64)
    tissue = np.ones(number, dtype=np.float32)
    meta = replace(example_meta(codec, size=patches.shape[1]), level0_width=0, level0_height=0)
    with create_store(path, meta) as writer:
        for first in range(0, number, _BATCH):
            part = slice(first, first + _BATCH)
            writer.append(Rows(patches=patches[part], coords=coords[part], tissue=tissue[part]))
        reason = np.zeros(number, dtype=np.uint8)
        writer.finish(Candidates(coords=coords, tissue=tissue, reason=reason), counts={"kept": number})
    return path


def run(folder: Path, patches: NDArray[np.uint8], *, batches: int, rounds: int) -> dict[str, float]:
    """Patches per second of every reader; all are first shown to read the same pixels."""
    rng = np.random.default_rng(0)
    order = [rng.choice(len(patches), _BATCH, replace=False) for _ in range(batches)]
    raw_h5 = write(folder / "raw.h5", "raw", patches)
    raw_zarr = write(folder / "raw.zarr", "raw", patches)
    stores = {
        "wsitool hdf5 raw": open_store(raw_h5),
        "wsitool zarr raw": open_store(raw_zarr),
        "wsitool hdf5 jpeg": open_store(write(folder / "jpeg.h5", "jpeg", patches)),
        "wsitool zarr jpeg": open_store(write(folder / "jpeg.zarr", "jpeg", patches)),
    }
    # A turn lasts a tenth of a second and more: readers ten or a thousand times slower get fewer batches.
    some, few = order[: max(1, batches // 5)], order[:1]
    with h5py.File(raw_h5) as file:
        data = file["patches"]
        offsets = file["chunk_offsets"][:].tolist()
        descriptor = os.open(raw_h5, os.O_RDONLY)

        def preadv(batch: NDArray[np.int64]) -> NDArray[np.uint8]:
            out = np.empty((len(batch), *patches.shape[1:]), dtype=np.uint8)
            views = [memoryview(row).cast("B") for row in out]
            for view, index in zip(views, batch.tolist(), strict=True):
                os.preadv(descriptor, [view], offsets[index])
            return out

        def h5_fancy(batch: NDArray[np.int64]) -> NDArray[np.uint8]:
            rank = np.argsort(np.argsort(batch))
            return np.asarray(data[np.sort(batch)])[rank]

        array = zarr.open_group(raw_zarr, mode="r")["patches"]
        readers: dict[
            str, tuple[Callable[[NDArray[np.int64]], NDArray[np.uint8]], list[NDArray[np.int64]]]
        ] = {name: (store.read, some if "jpeg" in name else order) for name, store in stores.items()}
        readers |= {
            "bare preadv loop": (preadv, order),
            "h5py d[i] loop": (lambda batch: np.stack([data[i] for i in batch.tolist()]), order),
            "h5py d[sorted batch]": (h5_fancy, few),
            "zarr-python default": (lambda batch: np.asarray(array.oindex[batch]), few),
        }
        if peer_version("tensorstore"):
            readers["tensorstore, 1 thread"] = (_tensorstore(raw_zarr, threads=1), order)
            readers["tensorstore, its own threads"] = (_tensorstore(raw_zarr), order)
        for name, (read, _) in readers.items():
            if "jpeg" not in name:
                assert np.array_equal(read(order[0]), patches[order[0]]), name
        candidates = {name: _reading(*reader) for name, reader in readers.items()}
        with ThreadPoolExecutor(2) as pool:
            read = stores["wsitool zarr raw"].read
            # Each thread is done with a batch before it reads the next, as the others are.
            candidates["wsitool zarr raw, 2 threads"] = lambda: sum(
                pool.map(lambda batch: len(read(batch)), order)
            )
            rates = measure(candidates, rounds=rounds)
        os.close(descriptor)
    return rates


def _reading(
    read: Callable[[NDArray[np.int64]], NDArray[np.uint8]], order: list[NDArray[np.int64]]
) -> Callable[[], int]:
    return lambda: sum(len(read(batch)) for batch in order)


def _tensorstore(
    path: Path, *, threads: int | None = None
) -> Callable[[NDArray[np.int64]], NDArray[np.uint8]]:
    import tensorstore

    limit = {} if threads is None else {"limit": threads}
    context = {"file_io_concurrency": limit, "data_copy_concurrency": limit} if limit else {}
    kvstore = {"driver": "file", "path": str(path / "patches")}
    spec = {"driver": "zarr3", "kvstore": kvstore, "context": context}
    array = tensorstore.open(spec, open=True).result()
    return lambda batch: np.asarray(array.oindex[batch].read().result())


def opening(folder: Path, number: int) -> dict[str, float]:
    """Milliseconds to open a store of `number` small patches, warm, per format and codec."""
    patches = np.zeros((number, 8, 8, 3), dtype=np.uint8)
    found = {}
    for suffix in (".h5", ".zarr"):
        for codec in ("raw", "jpeg"):
            path = write(folder / f"many-{codec}{suffix}", codec, patches)  # type: ignore[arg-type]
            open_store(path)
            began = time.perf_counter()
            open_store(path)
            found[f"{suffix[1:]} {codec}"] = 1000 * (time.perf_counter() - began)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=3000)
    number = parser.parse_args(arguments).patches
    with tempfile.TemporaryDirectory() as folder:
        rates = run(Path(folder), tissue_patches(number), batches=150, rounds=7)
        versions = [peer_version(name) for name in ("h5py", "zarr", "tensorstore")]
        title = f"Random batches of 64 of {number} patches of 224 px, page cache, one thread"
        print_table(f"{title} ({', '.join(filter(None, versions))})", rates, _CLAIMS)
        print("\nOpening a store of 150,000 patches, warm")
        for name, milliseconds in opening(Path(folder), 150_000).items():
            verdict = "met" if milliseconds < 100 else "NOT MET"
            print(f"  {name:<58}{milliseconds:>12.1f} ms (below 100: {verdict})")


if __name__ == "__main__":
    main()
