from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file

from wsitool.backbones.build import build_backbone
from wsitool.backbones.export import export_encoder
from wsitool.backbones.files import save_encoder
from wsitool.backbones.onnx_file import one_size_only, onnx_file
from wsitool.errors import EncoderError, UsageError


def _saved(folder: Path, name: str) -> Path:
    torch.manual_seed(0)
    encoder = build_backbone(name, init="random")
    encoder.train()
    for _ in range(3):  # running statistics unlike those of a fresh network
        encoder(torch.rand(4, 3, 64, 64))
    save_encoder(encoder, folder / "encoder.safetensors", encoder.card)
    return folder


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(tmp_path_factory.mktemp("resnet"), "resnet18")


IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
NORMAL = (IMAGES - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
    :, None, None
]


@torch.no_grad()
def test_torchvision_loads_it(resnet: Path, tmp_path: Path) -> None:
    path = export_encoder(resnet, tmp_path / "encoder.pth", to="torchvision")
    network = torchvision.models.resnet18(weights=None)
    result = network.load_state_dict(torch.load(path, weights_only=True), strict=False)
    assert result.missing_keys == ["fc.weight", "fc.bias"] and not result.unexpected_keys
    network.fc = torch.nn.Identity()
    expected = build_backbone(init=resnet).eval()(IMAGES)
    assert torch.allclose(network.eval()(NORMAL), expected, atol=1e-4)


@torch.no_grad()
def test_timm_loads_it_strictly(resnet: Path, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    path = export_encoder(resnet, tmp_path / "encoder.safetensors", to="timm")
    network = timm.create_model("resnet18", num_classes=0)
    network.load_state_dict(load_file(path), strict=True)
    expected = build_backbone(init=resnet).eval()(IMAGES)
    assert torch.allclose(network.eval()(NORMAL), expected, atol=1e-4)


@torch.no_grad()
def test_onnx_takes_any_batch_and_size_and_says_what_it_is(resnet: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = export_encoder(resnet, tmp_path / "encoder.onnx", to="onnx", image_size=64)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    encoder = build_backbone(init=resnet).eval()
    for images in (IMAGES, torch.rand(1, 3, 96, 160)):
        (features,) = session.run(["features"], {"images": images.numpy()})
        expected = encoder(images).numpy()
        assert np.allclose(features, expected, atol=1e-4 * max(1, np.abs(expected).max()))
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["mean"]) == [0.485, 0.456, 0.406] and about["name"] == "resnet18"
    assert about["image_size"] == "any" and json.loads(about["mpp"]) is None and "[0, 1]" in about["input"]


class _OneSize(torch.nn.Module):
    """As networks whose positions are learnt for one grid and not resampled."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = torch.nn.Parameter(torch.rand(3, 64, 64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images * self.positions).mean((2, 3))


def test_a_network_of_one_size_is_exported_for_it_and_that_is_said() -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = _OneSize().eval()
    written = onnx_file(network, IMAGES, ("features",), {"name": "x"}, step=None)
    assert "must match the size" in written.fixed
    session = runtime.InferenceSession(written.data, providers=["CPUExecutionProvider"])
    (features,) = session.run(None, {"images": torch.cat([IMAGES, IMAGES]).numpy()})
    assert features.shape == (6, 3)
    assert session.get_modelmeta().custom_metadata_map["image_size"] == "64"
    assert "64 x 64 px only" in one_size_only("x", 64, written.fixed)


def test_what_has_no_such_form_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    (tmp_path / "a").mkdir()
    folder = _saved(tmp_path / "a", "squeezenet1_1")
    with pytest.raises(EncoderError, match="timm has no 'squeezenet1_1'"):
        export_encoder(folder, tmp_path / "x.pth", to="timm")
    with pytest.raises(UsageError, match="--to must be one of torchvision, timm, onnx, hf, got 'keras'"):
        export_encoder(folder, tmp_path / "x", to="keras")
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.pth").exists()


@torch.no_grad()
@pytest.mark.parametrize(
    ("to", "suffix"),
    [("timm", "pth"), ("timm", "safetensors"), ("torchvision", "bin"), ("torchvision", "safetensors")],
)
def test_the_suffix_says_how_the_file_is_written(resnet: Path, tmp_path: Path, to: str, suffix: str) -> None:
    """Loaded as the library does it: timm by `checkpoint_path`, which goes by the suffix too."""
    if to == "timm":
        timm = pytest.importorskip("timm")
    path = export_encoder(resnet, tmp_path / f"x.{suffix}", to=to)
    if to == "timm":
        network = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(path))
    else:
        network = torchvision.models.resnet18(weights=None)
        network.fc = torch.nn.Identity()
        state = load_file(path) if suffix == "safetensors" else torch.load(path, weights_only=True)
        network.load_state_dict(state, strict=True)
    expected = build_backbone(init=resnet).eval()(IMAGES)
    assert torch.allclose(network.eval()(NORMAL), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("to", "name"), [("timm", "x"), ("torchvision", "x.onnx"), ("onnx", "x.pth"), ("timm", "x.SAFETENSORS")]
)
def test_another_suffix_is_refused(resnet: Path, tmp_path: Path, to: str, name: str) -> None:
    with pytest.raises(UsageError, match=f"for {to} ends in .*, got '{name}'"):
        export_encoder(resnet, tmp_path / name, to=to)
    assert not list(tmp_path.iterdir())
