"""Epochs into batch tensors: PatchLoader against stock DataLoaders, ImageFolder, webdataset and litdata.

python tests/benchmarks/bench_loader.py [--patches N] [--memory]
"""

from __future__ import annotations

import argparse
import io
import itertools
import multiprocessing
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from bench_stores import write
from numpy.typing import NDArray
from PIL import Image
from side_by_side import Claim, measure, peer_version, print_table, tissue_patches
from torch.utils.data import DataLoader, Dataset

from wsitool.loading import PatchLoader
from wsitool.store import jpeg
from wsitool.store.collection import open_collection
from wsitool.store.opening import open_store

__all__ = ["run"]

_BATCH, _WORKERS = 64, 2
_CLAIMS = [
    Claim(ours="wsitool raw", peer="DataLoader(2) over h5[i]", factor=4),
    Claim(ours="wsitool jpeg", peer="JPEG decode alone, 2 threads", factor=0.85),
    Claim(ours="wsitool raw", peer="ImageFolder of PNG, DataLoader(2)", factor=5),
    Claim(ours="wsitool jpeg", peer="webdataset, DataLoader(2)", factor=1),
    Claim(ours="wsitool jpeg", peer="litdata, StreamingDataLoader(2)", factor=1),
]


class _OneByOne(Dataset[tuple[torch.Tensor, int]]):
    """What most scripts do: `h5[i]` in every worker, and the default collate."""

    def __init__(self, path: Path, number: int) -> None:
        self._path, self._number, self._data = path, number, None

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self._data is None:
            self._data = h5py.File(self._path)["patches"]
        return torch.from_numpy(self._data[index]), 0


def _decode(data: bytes) -> torch.Tensor:
    return torch.from_numpy(jpeg.decode(data))


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


def _epoch(loader: Any) -> int:
    patches = 0
    for batch in loader:
        first = batch.patches if hasattr(batch, "patches") else batch
        patches += len(first[0] if isinstance(first, list | tuple) else first)
    return patches


def run(folder: Path, patches: NDArray[np.uint8], *, rounds: int) -> dict[str, float]:
    """Patches per second over whole epochs; every candidate is shown to give every patch."""
    raw = write(folder / "raw.h5", "raw", patches)
    coded = write(folder / "jpeg.h5", "jpeg", patches)
    encoded = open_store(coded).encoded(range(len(patches)))
    ours = {
        "wsitool raw": PatchLoader(open_collection(raw), batch_size=_BATCH, threads=2),
        "wsitool jpeg": PatchLoader(open_collection(coded), batch_size=_BATCH, threads=2),
    }
    candidates: dict[str, Callable[[], int]] = {
        name: lambda loader=loader: _epoch(loader)
        for name, loader in ours.items()  # type: ignore[misc]
    }
    candidates["JPEG decode alone, 2 threads"] = _decode_alone(encoded, patches.shape[1])
    for name, loader in _peers(folder, raw, patches, encoded).items():
        candidates[name] = lambda loader=loader: _epoch(loader)  # type: ignore[misc]
    for name, candidate in candidates.items():
        assert candidate() == len(patches), name
    return measure(candidates, rounds=rounds)


def _decode_alone(encoded: list[bytes], size: int) -> Callable[[], int]:
    out = np.empty((2, size, size, 3), dtype=np.uint8)

    def half(number: int) -> int:
        own = encoded[number::2]
        for data in own:
            jpeg.decode_into(data, out[number])
        return len(own)

    def both() -> int:
        with ThreadPoolExecutor(2) as pool:
            return sum(pool.map(half, range(2)))

    return both


def _peers(folder: Path, raw: Path, patches: NDArray[np.uint8], encoded: list[bytes]) -> dict[str, Any]:
    from torchvision.datasets import ImageFolder

    options: dict[str, Any] = {"batch_size": _BATCH, "num_workers": _WORKERS, "persistent_workers": True}
    options["multiprocessing_context"] = multiprocessing.get_context("forkserver")
    pictures = folder / "png" / "class"
    pictures.mkdir(parents=True)
    for row, patch in enumerate(patches):
        Image.fromarray(patch).save(pictures / f"{row:06}.png", compress_level=1)
    images = ImageFolder(str(pictures.parent), transform=_pixels)
    loaders = {
        "DataLoader(2) over h5[i]": DataLoader(_OneByOne(raw, len(patches)), shuffle=True, **options),
        "ImageFolder of PNG, DataLoader(2)": DataLoader(images, shuffle=True, **options),
    }
    if peer_version("webdataset"):
        loaders["webdataset, DataLoader(2)"] = _webdataset(folder, encoded, options)
    if peer_version("litdata"):
        loaders["litdata, StreamingDataLoader(2)"] = _litdata(folder, encoded)
    return loaders


def _webdataset(folder: Path, encoded: list[bytes], options: dict[str, Any]) -> Any:
    import webdataset as wds

    for worker in range(_WORKERS):
        with tarfile.open(folder / f"shard-{worker}.tar", "w") as tar:
            for row, data in enumerate(encoded[worker::_WORKERS]):
                info = tarfile.TarInfo(f"{row:06}.jpg")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    urls = str(folder / f"shard-{{0..{_WORKERS - 1}}}.tar")
    dataset = wds.WebDataset(urls, shardshuffle=False, nodesplitter=wds.split_by_node).shuffle(500)
    dataset = dataset.map_dict(jpg=_decode).to_tuple("jpg")
    return DataLoader(dataset, **options)


def _litdata(folder: Path, encoded: list[bytes]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import litdata
        from litdata.streaming.writer import BinaryWriter

    out = folder / "litdata"
    out.mkdir()
    writer = BinaryWriter(str(out), chunk_bytes="16MB")
    for row, data in enumerate(encoded):
        writer[row] = data
    writer.done()
    writer.merge(1)

    class Decoded(litdata.StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> torch.Tensor:
            return _decode(super().__getitem__(index))

    dataset = Decoded(str(out), shuffle=True)
    return litdata.StreamingDataLoader(dataset, batch_size=_BATCH, num_workers=_WORKERS)


def resident_megabytes(folder: Path, number: int) -> Iterator[float]:
    """Resident size of a process that iterates a collection of `number` patches: after epochs 1, 2, ..."""
    path = folder / f"memory-{number}.h5"
    if not path.exists():
        write(path, "raw", np.zeros((number, 16, 16, 3), dtype=np.uint8))
    loader = PatchLoader(open_collection(path), batch_size=_BATCH, threads=2)
    while True:
        for batch in itertools.islice(loader, 200):
            del batch
        loader.set_epoch(loader.epoch + 1)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        yield pages * 4096 / 2**20


def _memory(folder: str, number: int, epochs: int, out: Any) -> None:
    out.put(list(itertools.islice(resident_megabytes(Path(folder), number), epochs)))


def print_memory(folder: Path) -> None:
    """Resident size for 10,000 and 200,000 patches, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for number in (10_000, 200_000):
        write(folder / f"memory-{number}.h5", "raw", np.zeros((number, 16, 16, 3), dtype=np.uint8))
        queue = context.Queue()
        process = context.Process(target=_memory, args=(str(folder), number, 20, queue))
        process.start()
        found[number] = queue.get()
        process.join()
        print(
            f"  {number:>7} patches: {found[number][1]:.0f} MB after 2 epochs, "
            f"{found[number][-1]:.0f} after 20"
        )
    ratio = found[200_000][-1] / found[10_000][-1]
    print(f"  200,000 / 10,000: {ratio:.3f} (at most 1.05: {'met' if ratio <= 1.05 else 'NOT MET'})")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=2000)
    number = parser.parse_args(arguments).patches
    with tempfile.TemporaryDirectory() as folder:
        rates = run(Path(folder), tissue_patches(number), rounds=3)
        versions = [peer_version(name) for name in ("torch", "torchvision", "h5py", "webdataset", "litdata")]
        title = f"Epochs over {number} patches of 224 px, page cache, 2 cores"
        print_table(f"{title} ({', '.join(filter(None, versions))})", rates, _CLAIMS)
        print("\nResident memory of a process with the loader")
        print_memory(Path(folder))


if __name__ == "__main__":
    main()
