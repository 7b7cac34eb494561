"""On a real GPU: the same results as on the CPU, and a step that the host never waits in."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from wsitool import augment
from wsitool.api import Progress
from wsitool.augment.fused import fused
from wsitool.backbones.build import build_backbone
from wsitool.backbones.features import encode
from wsitool.backbones.precision import Precision
from wsitool.base.machine import largest_that_fits
from wsitool.loading import PatchLoader
from wsitool.loading.device_decode import DeviceDecoder, Streams, effective_decode
from wsitool.methods.registry import load_method
from wsitool.store import jpeg
from wsitool.store.collection import Collection, open_collection
from wsitool.store.decoding import is_plain
from wsitool.testing import draw_tissue
from wsitool.testing.stores import example_patches, write_example
from wsitool.testing.subject import Subject
from wsitool.training.config import OPTIMIZERS, PretrainConfig
from wsitool.training.module import compute_step
from wsitool.training.optim import make_optimizer

_METHODS = (
    *("rotation", "jitter-rotation", "simclr", "byol", "simsiam", "vicreg", "barlow-twins", "moco"),
    *("context-encoder", "supcon", "neighbours", "dino", "mae", "ibot"),
)
_GPU = pytest.param("cuda", marks=pytest.mark.cuda)
on_both = pytest.mark.parametrize("device", [_GPU, "cpu"], indirect=True)
on_a_gpu = pytest.mark.parametrize("device", [_GPU], indirect=True)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    folder = tmp_path_factory.mktemp("stores")
    for number in range(3):
        write_example(folder / f"{number}.h5", "jpeg" if number else "raw")
    return open_collection(folder)


def _patches(count: int = 16, size: int = 64) -> Tensor:
    return torch.from_numpy(example_patches(count, size)).permute(0, 3, 1, 2)


def _method(name: str, preset: str = "paper") -> Any:
    kind = load_method(name)
    backbone = "timm:test_vit" if "tokens" in kind.needs else "resnet18"
    encoder = build_backbone(backbone, init="random", seed=1)
    torch.manual_seed(0)
    return kind(encoder, encoder.feature_dim, kind.params_type.from_preset(preset, {}))


@on_both
@pytest.mark.parametrize("preset", ["paper", "histology"])
def test_two_views_are_those_of_the_cpu(device: torch.device, preset: str) -> None:
    params = augment.ViewParams.from_preset(preset, {})
    patches = _patches().float() / 255  # of bytes, crops would be rounded in between on the CPU
    here = augment.two_views(patches, Generator().manual_seed(3), params)
    there = augment.two_views(patches.to(device), Generator().manual_seed(3), params)
    for name in here:
        assert there[name].device.type == device.type
        assert torch.allclose(there[name].cpu(), here[name], atol=1e-4), name


@on_both
def test_bytes_are_resized_as_on_the_cpu(device: torch.device) -> None:
    patches = _patches()
    there = augment.resize(patches.to(device), 40)
    assert there.dtype == torch.uint8
    assert (there.cpu().int() - augment.resize(patches, 40).int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("device", "name"),
    [*(pytest.param("cuda", name, marks=pytest.mark.cuda) for name in _METHODS), ("cpu", "rotation")],
    indirect=["device"],
)
def test_a_step_never_waits(
    device: torch.device, no_waiting: AbstractContextManager[None], name: str
) -> None:
    method = _method(name).to(device)
    config = PretrainConfig(method=name, image_size=48, clip_grad=1.0)
    optimizer = make_optimizer(method, config)
    patches = _patches().to(device)
    meta = Subject(cls=type(method)).meta(patches)

    def step(number: int) -> Tensor:
        method.before_step(Progress(step=number, steps=10, epoch=0, share=number / 10, lr=1e-3))
        loss = compute_step(method, patches, config, number, meta=meta).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's, unannotated
        Precision("32", device).clip(optimizer, config.recipe.clip_grad)
        optimizer.step()
        with torch.no_grad():
            method.after_step(0.5)
        return loss.detach()

    step(0)  # what is chosen and allocated once may wait
    with no_waiting:
        loss = step(1)
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        *(pytest.param("cuda", name, marks=pytest.mark.cuda) for name in ("rotation", "simclr", "vicreg")),
        ("cpu", "simclr"),
    ],
    indirect=["device"],
)
def test_loss_and_gradient_are_those_of_the_cpu(device: torch.device, name: str) -> None:
    config = PretrainConfig(method=name)
    here = _method(name)
    there = copy.deepcopy(here).to(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    losses = []
    for method, where in ((here, torch.device("cpu")), (there, device)):
        made = compute_step(method, _patches().to(where), config, 2)
        made.loss.backward()  # type: ignore[no-untyped-call]  # torch's, unannotated
        losses.append(float(made.loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    slopes = [
        torch.cat([p.grad.flatten().cpu() for p in m.parameters() if p.grad is not None])
        for m in (here, there)
    ]
    assert float(torch.nn.functional.cosine_similarity(*slopes, dim=0)) > 0.99


@on_both
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_moves_weights_as_on_the_cpu(device: torch.device, name: str) -> None:
    config = PretrainConfig(method="simclr", optimizer=name, lr=0.1, weight_decay=0.01)
    here = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2))
    there = copy.deepcopy(here).to(device)
    inputs = torch.rand(8, 6)
    for network, where in ((here, "cpu"), (there, device)):
        optimizer = make_optimizer(network, config)
        for _ in range(3):
            optimizer.zero_grad()
            network(inputs.to(where)).square().sum().backward()
            optimizer.step()
    for mine, its in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.allclose(mine, its.cpu(), atol=1e-4)


@on_a_gpu
def test_views_beside_a_step_are_the_same_views(
    device: torch.device, no_waiting: AbstractContextManager[None]
) -> None:
    from wsitool.training.side_stream import SideStream

    patches = [_patches().to(device) for _ in range(4)]
    weight = torch.rand(2048, 2048, device=device)

    def views(number: int) -> dict[str, Tensor]:
        return augment.two_views(patches[number], Generator().manual_seed(number), augment.ViewParams())

    expected = [views(number)["b"].sum() for number in range(4)]
    side, sums = SideStream(device), []
    torch.cuda.synchronize()
    with no_waiting:
        for number in range(4):
            made = side.make(lambda number=number: views(number), patches[number])  # type: ignore[misc]
            for _ in range(20):  # a step that lasts
                weight = weight @ weight / 2048
            sums.append(made["b"].sum())
            del made
    assert torch.allclose(torch.stack(sums), torch.stack(expected))


@on_a_gpu
@pytest.mark.parametrize("preset", ["paper", "histology"])
def test_fused_views_are_those_of_single_operations(device: torch.device, preset: str) -> None:
    params, patches = augment.ViewParams.from_preset(preset, {}), _patches().to(device)
    eager = augment.two_views(patches, Generator().manual_seed(3), params)
    with fused():
        together = augment.two_views(patches, Generator().manual_seed(3), params)
    for name in eager:
        assert together[name].is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(eager[name], together[name], atol=1e-4), name


@on_a_gpu
def test_what_does_not_fit_is_known_and_let_go(device: torch.device) -> None:
    free, _ = torch.cuda.mem_get_info(device)
    before = torch.cuda.memory_allocated(device)

    def attempt(size: int) -> None:
        held = [torch.empty(free // 8, dtype=torch.uint8, device=device) for _ in range(size)]
        assert len(held) == size

    # 16 and 8 eighths of what is free are too many, where half of it is not.
    assert largest_that_fits(attempt, 16) == 4
    assert torch.cuda.memory_allocated(device) == before


@on_both
def test_the_loader_brings_the_same_batches(device: torch.device, collection: Collection) -> None:
    here = list(PatchLoader(collection, batch_size=8, seed=1))
    there = list(PatchLoader(collection, batch_size=8, seed=1, device=device, threads=3))
    assert len(here) == len(there)
    for mine, its in zip(here, there, strict=True):
        assert its.patches.device.type == device.type and its.indices.device.type == "cpu"
        assert torch.equal(mine.patches, its.patches.cpu()) and torch.equal(mine.indices, its.indices)
        assert its.patches.is_contiguous(memory_format=torch.channels_last)


@on_both
def test_features_are_those_of_the_cpu(device: torch.device, collection: Collection) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    encoder = build_backbone("resnet18", init="random", seed=1)
    here = encode(encoder, collection, image_size=32, batch_size=8, device="cpu")
    there = encode(encoder, collection, image_size=32, batch_size=8, device=str(device))
    assert np.allclose(here, there, atol=1e-3, rtol=1e-2)


@on_both
def test_a_training_ends_and_goes_on(device: torch.device, collection: Collection, tmp_path: Path) -> None:
    from wsitool.training.run import pretrain

    options: dict[str, Any] = {"method": "simclr", "backbone": "resnet18", "init": "random", "batch_size": 8}
    result = pretrain(collection, out=tmp_path / "run", epochs=2, device=device.type, **options)
    assert np.isfinite(result.loss) and result.encoder.is_file()
    encoder = build_backbone(init=tmp_path / "run")
    assert np.isfinite(encode(encoder, collection, image_size=32, device="cpu")).all()


@on_both
def test_bench_counts_a_step_that_never_waits(device: torch.device, collection: Collection) -> None:
    from wsitool.training.bench import bench

    result = bench(collection, batch_size=8, device=str(device), seconds=0.2)
    assert result.waits == 0 and result.training > 0
    assert result.upload is None if device.type == "cpu" else result.upload > 0


@on_both
def test_verdicts_of_sixteen_bits_are_nearly_those_of_the_cpu(
    device: torch.device, collection: Collection
) -> None:
    encoder = build_backbone("resnet18", init="random", seed=1)
    here = encode(encoder, collection, image_size=32, batch_size=8, device="cpu")
    there = encode(encoder, collection, image_size=32, batch_size=8, device=str(device), precision="auto")
    assert np.linalg.norm(here - there) < 0.02 * np.linalg.norm(here)


@on_both
@pytest.mark.filterwarnings("ignore:.*TorchCodec:DeprecationWarning")
def test_streams_decoded_there_are_those_of_the_cpu_but_for_rounding(
    device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prints how far apart: chroma is spread by other rules, so that edges of colour may differ by more."""
    tissue = draw_tissue(512, 512, kind="adh", seed=0)
    patches = tissue.reshape(2, 256, 2, 256, 3).swapaxes(1, 2).reshape(4, 256, 256, 3)
    decoder = DeviceDecoder(device)
    for subsampling in ("444", "422", "420", "gray"):
        encoded = [_encoded(patch, subsampling) for patch in patches]
        assert all(is_plain(stream, 256) for stream in encoded)
        here = np.stack([jpeg.decode(stream) for stream in encoded]).astype(int)
        buffer = torch.zeros(patches.shape, dtype=torch.uint8)
        streams = Streams(len(patches))
        for row, stream in enumerate(encoded):
            assert streams(stream, buffer.numpy()[row], row) == ""
        there = decoder.batch(buffer.pin_memory() if device.type == "cuda" else buffer, streams.lengths)
        assert there.device.type == device.type and there.shape == patches.shape
        apart = np.abs(there.cpu().numpy().astype(int) - here)
        with capsys.disabled():
            print(
                f"\n{device} and CPU, JPEG {subsampling}: {(apart == 0).mean():.2%} of the bytes are equal, "
                f"mean difference {apart.mean():.3f}, largest {apart.max()}"
            )
        assert apart.mean() < (0.5 if subsampling in ("444", "gray") else 2)


def _encoded(patch: NDArray[np.uint8], subsampling: str) -> bytes:
    if subsampling == "gray":
        gray = np.ascontiguousarray(patch[..., :1])
        return bytes(simplejpeg.encode_jpeg(gray, quality=90, colorspace="GRAY"))
    return bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(patch), quality=90, colorsubsampling=subsampling)
    )


@on_a_gpu
@pytest.mark.filterwarnings("ignore:.*TorchCodec:DeprecationWarning")
def test_the_loader_decodes_there_and_never_waits_here(
    device: torch.device, no_waiting: AbstractContextManager[None], collection: Collection
) -> None:
    assert effective_decode("gpu", device) == "gpu"
    here = list(PatchLoader(collection, batch_size=8, seed=1))
    batches = iter(PatchLoader(collection, batch_size=8, seed=1, device=device, decode="gpu"))
    there = [next(batches)]  # what is made once may wait
    with no_waiting:
        there += list(batches)
    for mine, its in zip(here, there, strict=True):
        assert torch.equal(mine.indices, its.indices)
        assert (its.patches.cpu().int() - mine.patches.int()).abs().float().mean() < 2


@on_a_gpu
@pytest.mark.filterwarnings("ignore:.*TorchCodec:DeprecationWarning")
def test_damage_is_told_where_the_device_decodes(device: torch.device, tmp_path: Path) -> None:
    write_example(tmp_path / "a.h5", "jpeg", 40)
    with open_collection(tmp_path).stores[0] as store:
        stream = store.encoded([17])[0]
    content = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(content.replace(stream, bytes(len(stream))))
    loader = PatchLoader(open_collection(tmp_path), batch_size=8, device=device, decode="gpu")
    assert sum(len(batch) for batch in loader) == 39 and list(loader.stats.bad) == [17]
