"""Streams decoded by the device: the CPU's patches, damage told as by the CPU, nothing waited for."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerator import DEVICE
from decoding_device import decoding_device
from PIL import Image
from value_device import on_cpu

from wsitool.base.progress import SILENT, Task
from wsitool.errors import CorruptStoreError, UsageError
from wsitool.loading import Batch, PatchLoader
from wsitool.loading.device_decode import effective_decode, say_decoding
from wsitool.store import jpeg
from wsitool.store.collection import Collection, open_collection
from wsitool.store.opening import create_store
from wsitool.store.schema import Candidates, Rows
from wsitool.testing.stores import example_meta, example_patches, write_example


def _native(path: Path, streams: list[bytes]) -> None:
    """A store of streams as they are."""
    count = len(streams)
    coords = np.stack([np.arange(count) * 64, np.zeros(count, int)], axis=1).astype(np.int64)
    tissue = np.ones(count, np.float32)
    with create_store(path, example_meta("native", name=path.stem)) as writer:
        writer.append(Rows(patches=streams, coords=coords, tissue=tissue))
        kept = Candidates(coords=coords, tissue=tissue, reason=np.zeros(count, np.uint8))
        writer.finish(kept, counts={"kept": count})


def _in_rgb(patch: np.ndarray) -> bytes:  # type: ignore[type-arg]
    out = io.BytesIO()
    Image.fromarray(patch).save(out, "jpeg", keep_rgb=True)
    return out.getvalue()


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Raw, JPEG of both formats, and native with three kinds of streams."""
    folder = tmp_path_factory.mktemp("stores")
    write_example(folder / "a.h5", "raw", 9, seed=1, name="a")
    write_example(folder / "b.zarr", "jpeg", 12, seed=2, name="b")
    write_example(folder / "c.h5", "jpeg", 20, seed=3, name="c")
    patches = example_patches(6, seed=4)
    gray = io.BytesIO()
    Image.fromarray(patches[4]).convert("L").save(gray, "jpeg")
    rgb = [_in_rgb(patch) for patch in patches[:4]]
    _native(folder / "d.h5", [*rgb, gray.getvalue(), jpeg.encode(patches[5], 90)])
    return open_collection(folder)


def _same(mine: list[Batch], its: list[Batch]) -> None:
    for here, there in zip(mine, its, strict=True):
        assert there.patches.device.type == DEVICE.type and there.indices.device.type == "cpu"
        assert torch.equal(here.indices, there.indices)
        # Both decoders are libjpeg-turbo: not a level apart. CUDA's is measured by tests/cuda.
        assert torch.equal(here.patches, on_cpu(there.patches))
        assert on_cpu(there.patches).is_contiguous(memory_format=torch.channels_last)


def test_patches_are_those_of_the_cpu_and_nothing_is_waited_for(collection: Collection) -> None:
    here = list(PatchLoader(collection, batch_size=8, seed=3))
    with decoding_device() as device:
        there = list(PatchLoader(collection, batch_size=8, seed=3, threads=1, device=DEVICE, decode="gpu"))
    _same(here, there)
    # 32 of the JPEG stores and 2 native ones; the others go up as pixels, one copy each.
    assert device.streams == 34
    assert device.counted.uploads == 9 + 4 and device.counted.waits == 0


def test_of_jpeg_stores_no_pixel_goes_up(collection: Collection) -> None:
    jpegs = collection.subset(np.flatnonzero(np.isin(collection.store_index, (1, 2))))
    with decoding_device() as device:
        loader = PatchLoader(jpegs, batch_size=8, threads=1, device=DEVICE, decode="gpu")
        assert len(list(loader)) == 4
    assert (device.streams, device.counted.uploads, device.counted.waits) == (32, 0, 0)
    assert device.counted.kernels["stack"] + device.counted.kernels["cat"] == 4


def test_of_raw_stores_a_batch_is_one_copy(collection: Collection) -> None:
    with decoding_device() as device:
        raw = collection.subset(range(8))
        list(PatchLoader(raw, batch_size=4, threads=1, device=DEVICE, decode="gpu"))
    assert (device.streams, device.counted.uploads) == (0, 2)


def test_a_resumed_loader_goes_on_with_the_same_patches(collection: Collection) -> None:
    with decoding_device():
        make = [PatchLoader(collection, batch_size=8, threads=1, device=DEVICE, decode="gpu") for _ in "ab"]
        whole = list(make[0])
        taken = iter(make[1])
        parts = [next(taken) for _ in range(2)]
        state = make[1].state_dict()
        taken.close()  # type: ignore[attr-defined]
        again = PatchLoader(collection, batch_size=8, threads=1, device=DEVICE, decode="gpu")
        again.load_state_dict(state)
        parts += list(again)
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(on_cpu(one.patches), on_cpu(other.patches))


def _overwrite(path: Path, stream: bytes, damaged: bytes) -> None:
    content = path.read_bytes()
    assert len(stream) == len(damaged) and content.count(stream) == 1
    path.write_bytes(content.replace(stream, damaged))


@pytest.mark.parametrize("damage", ["head", "end", "middle"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_damaged_streams_are_told_as_by_the_cpu(tmp_path: Path, damage: str, world_size: int) -> None:
    path = tmp_path / "a.h5"
    write_example(path, "jpeg", 40)
    with open_collection(path).stores[0] as store:
        stream = store.encoded([17])[0]
    kept = stream[: stream.index(b"\xff\xda") + 22]
    damaged = {
        "head": bytes(len(stream)),
        "end": stream[:-2] + b"\0\0",
        # The head is plain and the end is there; of what lies between the most is missing.
        "middle": kept + b"\xff\xd9" + bytes(len(stream) - len(kept) - 4) + b"\xff\xd9",
    }
    _overwrite(path, stream, damaged[damage])
    collection = open_collection(path)
    with decoding_device(strict=True):
        for rank in range(world_size):
            how = {"batch_size": 5, "rank": rank, "world_size": world_size, "threads": 1}
            here = PatchLoader(collection, **how)  # type: ignore[arg-type]
            there = PatchLoader(collection, device=DEVICE, decode="gpu", **how)  # type: ignore[arg-type]
            _same(list(here), list(there))
            assert here.stats.bad == there.stats.bad
            assert [list(each.stats.bad) for each in (here, there)] == [[17]] * 2 or world_size == 2
            assert here.skipped() == there.skipped()


def test_too_much_damage_ends_it_as_on_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_example(path, "jpeg", 20)
    with open_collection(path).stores[0] as store:
        streams = store.encoded([3, 4])
    for stream in streams:
        _overwrite(path, stream, bytes(len(stream)))
    with decoding_device(), pytest.raises(CorruptStoreError, match="2 of 20 patches cannot be read"):
        list(PatchLoader(open_collection(path), batch_size=5, threads=1, device=DEVICE, decode="gpu"))


def test_auto_is_the_cpu_and_a_gpu_needs_one() -> None:
    assert effective_decode("auto", "cuda") == effective_decode("cpu", "cuda") == "cpu"
    with pytest.raises(UsageError, match="--decode gpu needs a CUDA device, and this runs on cpu: pass"):
        effective_decode("gpu", "cpu")


def test_a_torchvision_without_that_decoder_is_known_before_the_first_batch() -> None:
    with decoding_device() as device, pytest.MonkeyPatch.context() as patch:
        assert effective_decode("gpu", DEVICE) == "gpu" and device.streams == 1

        def missing(*_: object, **__: object) -> None:
            raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support\n at x.cpp")

        patch.setattr("torchvision.io.decode_jpeg", missing)
        with pytest.raises(UsageError, match=r"\(decode_jpegs_cuda: .* nvJPEG support\): install another"):
            effective_decode("gpu", DEVICE)


class _Said:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def task(self, description: str, *, total: float, unit: str = "it") -> AbstractContextManager[Task]:
        return SILENT.task(description, total=total)

    def warn(self, message: str) -> None:
        self.lines.append(f"Warning: {message}")

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_what_is_left_to_the_cpu_is_said_once(collection: Collection) -> None:
    said = _Said()
    say_decoding("cpu", collection, said)
    say_decoding("gpu", collection.subset([0]), said)
    assert said.lines == [
        "--decode gpu leaves a.h5 and 1 more of 4 store(s) to the CPU: their patches are no baseline YCbCr "
        "JPEGs."
    ]
